"""Reads a layer's queries and keys, after the rotary embedding, from inside its attention.

The layer's attention module gets a private copy of its config that names a wrapped attention function. The function
calls the real one, then passes queries, keys and mask to a listener. Nothing is recomputed and no class is patched; the
copy and the registered name are removed with the probe.
"""

from __future__ import annotations

import copy
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..core.rows import Rows
from ..core.stage import Attention
from ..errors import UnsupportedModelError
from .compiled.segment import SEEN
from .install import Installation, uncompiled
from .layer_inputs import pick
from .masks import mask_of_rows
from .model_parts import Layer
from .rope import axes, axis_of_frequencies, frequencies

Listener = Callable[[int, Tensor, Tensor, Any, dict[str, Any]], None]
PREFIX = "sparsesight|"
MARK = "_sparsesight_probe"


class _Name(str):
    """A registered name that also answers to the real one: some layers compare theirs before they mask or shape."""

    def __new__(cls, real: str, number: int) -> _Name:
        made = super().__new__(cls, f"{PREFIX}{real}|{number}")
        made.real = real
        return made

    real: str

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, other) or self.real == other

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


class _Registered:
    """A name in transformers' registry of attention functions, which is one for the whole process.

    Each installation has names of its own: who counts the users of a shared one needs a lock, and an interrupt may come
    where it is not given back. A name also goes when its installation does, with a model that nobody restored.
    """

    def __init__(self, name: str, installation: Installation) -> None:
        self.name = name
        self.at_its_end = weakref.finalize(installation, self.undo_name, name)

    def make(self) -> None:
        AttentionInterface.register(self.name, _probed_attention)

    def undo(self) -> None:
        self.undo_name(self.name)
        self.at_its_end.detach()

    @staticmethod
    def undo_name(name: str) -> None:
        AttentionInterface._global_mapping.pop(name, None)  # there is no public way


class _WithConfig:
    """A module as seen with its own config, from which some implementations read the name back.

    The module itself is not touched during a call: another thread may be in it.
    """

    def __init__(self, module: nn.Module, config: Any) -> None:
        self.config = config
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class Probe:
    """Shows ``listener(layer, query, key, mask, kwargs)`` every attention call of one module.

    ``layer`` is the listener's own number for it. What it puts on the module is ``added``, and goes with it.
    """

    def __init__(self, attention: nn.Module, layer: int, listener: Listener, added: Installation) -> None:
        if getattr(attention, "config", None) is None:
            raise UnsupportedModelError(
                f"layer {layer}: its attention {type(attention).__name__} has no config, so it cannot be read"
            )
        self.attention, self.layer, self.listener = attention, layer, uncompiled(listener)
        self.config: Any = attention.config
        self.private: Any = copy.copy(self.config)
        self.view = _WithConfig(attention, self.config)
        self.added, self.names = added, set[str]()
        self.follow()
        added.attribute(attention, "config", self.private)
        added.attribute(attention, MARK, self)  # found by the registered function

    def follow(self) -> None:
        """Call the attention function that the module's own config names now."""
        real = self.config._attn_implementation
        self.real = real_attention(self.attention, real)
        name = _Name(real, self.added.number)
        if str(name) not in self.names:  # a plain key: compilers hash them all
            self.added.make(_Registered(str(name), self.added))
            self.names.add(str(name))
        self.private.__dict__["_attn_implementation_internal"] = name


def probed(attention: nn.Module) -> bool:
    """Whether there is a probe on this very module."""
    return MARK in vars(attention)


def real_attention(attention: nn.Module, name: str) -> Callable[..., Any]:
    """The attention function a module would call; eager ones live in the module's own source, not in the registry.

    Raises:
        UnsupportedModelError: if there is none.
    """
    if name in ALL_ATTENTION_FUNCTIONS:
        return ALL_ATTENTION_FUNCTIONS[name]
    for kind in type(attention).__mro__:
        function = getattr(sys.modules.get(kind.__module__), "eager_attention_forward", None)
        if function is not None:
            return function
    raise UnsupportedModelError(
        f"attention implementation {name!r} of {type(attention).__name__} cannot be read"
    )


def _probed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    *args: Any,
    **kwargs: Any,
) -> Any:
    probe: Probe = getattr(module, MARK)
    sink = kwargs.pop(SEEN, None)
    result = probe.real(probe.view, query, key, value, attention_mask, *args, **kwargs)
    if sink is None:
        probe.listener(probe.layer, query, key, attention_mask, kwargs)
    else:  # inside a program, whose outputs are shown once it has run
        sink.see(query, kwargs)
    return result


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
