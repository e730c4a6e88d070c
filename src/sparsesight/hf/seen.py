"""What the probe of a pruning layer showed, as the attention that a method sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.rows import Rows
from ..core.stage import Attention
from .masks import mask_of_rows
from .model_parts import Layer
from .rope import axes, axis_of_frequencies, frequencies
from .shorten import pick


@dataclass(frozen=True)
class CapturedAttention:
    """One attention call of a pruning layer."""

    query: Tensor  # [b, h, r, d] of the text rows
    key: Tensor  # [b, g, k, d] all keys
    mask: Any  # as the layer itself had it
    kwargs: dict[str, Any]  # that its attention function was called with

    @classmethod
    def of(
        cls, row: Tensor, query: Tensor, key: Tensor, mask: Any, kwargs: dict[str, Any], device: torch.device
    ) -> CapturedAttention:
        """Of all queries [b, h, n, d] those of ``row`` [b, r].

        A model may lie on several devices; everything is chosen on the one that its decoder starts on.
        """
        index = row[:, None, :, None].expand(-1, query.shape[1], -1, query.shape[3]).to(query.device)
        mask = mask.to(device) if isinstance(mask, Tensor) else mask
        return cls(query.gather(2, index).to(device), key.to(device), mask, kwargs)

    def attention(
        self,
        decoder: nn.Module,
        layer: Layer,
        row: Tensor,
        column: Tensor,
        rows: int,
        position: Tensor,
        read: list[tuple[Tensor, Tensor]],
    ) -> Attention:
        """As a method sees it.

        Args:
            decoder, layer: that it was seen in.
            row: [b, r] of the text.
            column: [b, v] rows of the visual tokens.
            rows: how many rows the layer computed on; the keys before theirs were cached.
            position: rotary positions of the rows, [b, n] or [axes, b, n].
            read: axis and frequency of each rotated pair where there are several axes, once they are known.
        """
        axis, frequency = None, frequencies(decoder, layer)
        if frequency is not None and position.ndim == 3:
            if not read:  # the same at all stages
                read.append(axis_of_frequencies(decoder, frequency))
            axis, frequency = read[0]
        offset = self.key.shape[2] - rows
        before = position[..., :1].expand(*position.shape[:-1], offset)
        return Attention(
            query=self.query,
            key=self.key,
            mask=lambda index: mask_of_rows(self.mask, row.gather(1, index), offset, self.key.shape[2]),
            key_column=column + offset,
            query_position=pick(position, row),
            key_position=torch.cat((before, position), -1),
            inv_freq=frequency,
            scale=self.kwargs.get("scaling") or self.query.shape[-1] ** -0.5,
            softcap=self.kwargs.get("softcap"),
            rotary_axis=axis,
        )


def positions_of(decoder: nn.Module, rows: Rows, given: Tensor | None, past: int) -> Tensor:
    """Rotary positions [b, n] (or [axes, b, n]) of the current rows, from the ones ``given`` for all of the input."""
    if given is None:
        return rows.source + past
    if given.ndim == 3:  # some prepend the plain positions, for masks
        count = axes(decoder)
        # A turn over a kept cache may come with positions that are the same along all axes, given once.
        given = given[-count:].expand(count, *given.shape[1:]) if count > 1 else given[0]
    return pick(given.expand(*given.shape[:-2], rows.source.shape[0], -1), rows.source)
