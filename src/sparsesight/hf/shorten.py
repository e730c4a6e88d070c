"""What a layer is given for the rows that are left: hidden states, per-row arguments, keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import ops
from .cache import PrunedLayer

# Layer arguments that are not per-row tensors and must never be shortened.
NOT_ROWS = {
    "attention_mask",
    "past_key_values",
    "past_key_value",
    "use_cache",
    "hidden_states",
    "shared_kv_states",
}


@dataclass(frozen=True)
class Keys:
    """The keys that layers of one kind see within a segment."""

    slot: Tensor  # [b, k] logical index
    valid: Tensor  # [b, k] False for filler
    ragged: bool  # whether there is filler
    before: Tensor | int  # how many of them were there before this forward: [b, 1]

    @classmethod
    def of(cls, cached: PrunedLayer, slot: Tensor, valid: Tensor, ragged: bool) -> Keys:
        """Those cached before, and the new ones."""
        old, fine = cached.key_slots(slot.shape[0], slot.device)
        return cls(torch.cat((old, slot), 1), torch.cat((fine, valid), 1), ragged, fine.sum(1, keepdim=True))


def fold(hidden: Tensor) -> Tensor:
    """Hidden states as [b, n, c]; a decoder that carries several streams [s, b, n, c] has them side by side in c."""
    return hidden if hidden.ndim == 3 else hidden.permute(1, 2, 0, 3).flatten(2)


def unfold(hidden: Tensor, like: Tensor) -> Tensor:
    """The streams of ``like`` again."""
    return hidden if like.ndim == 3 else hidden.unflatten(2, (like.shape[0], -1)).permute(2, 0, 1, 3)


def pick(position: Tensor, row: Tensor) -> Tensor:
    """Positions [b, n] or [axes, b, n] at rows [b, m]."""
    return position.gather(-1, row.expand(*position.shape[:-2], *row.shape))


def take_rows(value: Any, source: Tensor, length: int) -> Any:
    """Select rows of anything with a sequence axis of ``length``: [b, n, ...] or [axes, b, n, ...], b or 1 of them.

    Other values are returned as they are; tuples and lists are searched.
    """
    if isinstance(value, (tuple, list)):
        return type(value)(take_rows(x, source, length) for x in value)
    if not isinstance(value, Tensor):
        return value
    b = source.shape[0]
    if value.ndim >= 2 and value.shape[1] == length and value.shape[0] in (1, b):
        return ops.gather_rows(value.expand(b, *value.shape[1:]), source)
    if value.ndim >= 3 and value.shape[2] == length and value.shape[1] in (1, b):
        return torch.stack([take_rows(x, source, length) for x in value])
    return value


def same_arguments(given: dict[str, Any], kwargs: dict[str, Any]) -> bool:
    """Whether two layers are given the same objects, or equal plain values."""
    return given.keys() == kwargs.keys() and all(
        kwargs[k] is v or (isinstance(v, (int, float, str)) and kwargs[k] == v) for k, v in given.items()
    )
