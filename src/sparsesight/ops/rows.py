"""Rows of padded batches: gathering, compacting and ranking them."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

# Rows scored or compared at once: bounds the [heads, rows, keys] softmax buffer and the distances of clustering, so
# that long questions and long clips stay cheap in memory.
ROW_CHUNK = 128


def gather_rows(x: Tensor, index: Int[Tensor, "b m"]) -> Tensor:
    """Gather rows: ``x`` [b, n, ...] at ``index`` [b, m] gives [b, m, ...]."""
    if x.device.type == "cpu" and x.ndim == 3 and x.is_contiguous() and index.numel() * x.shape[2] > 2**16:
        # `gather` copies number by number there, which takes more than twice as long as copying rows.
        first = torch.arange(0, x.shape[0] * x.shape[1], x.shape[1])[:, None]
        return x.flatten(0, 1).index_select(0, (index + first).flatten()).unflatten(0, index.shape)
    view = index.reshape(index.shape + (1,) * (x.ndim - 2))
    return x.gather(1, view.expand(*index.shape, *x.shape[2:]))


def compact(
    mask: Bool[Tensor, "b n"], length: int, order: Int[Tensor, "b n"] | None = None
) -> tuple[Int[Tensor, "b m"], Bool[Tensor, "b m"]]:
    """Right-aligned compaction: the index of every ``True`` entry, padding on the left.

    Args:
        mask: entries to keep; no row may hold more than ``length`` of them.
        length: width of the result.
        order: optional non-negative sort keys; by default entries stay in their order.

    Returns:
        ``index`` [b, length] into axis 1, and ``valid`` [b, length], ``False`` on padding (whose index is in range).
    """
    keys = mask.to(torch.int64) if order is None else torch.where(mask, order + 1, 0)
    index = keys.argsort(dim=1, stable=True)[:, mask.shape[1] - length :]
    return index, mask.gather(1, index)


def causal_rows(
    row: Int[Tensor, "b r"], keys: int, offset: int, key_valid: Bool[Tensor, "b k"] | None = None
) -> Bool[Tensor, "b 1 r k"]:
    """Which keys each selected row may see: those up to its own place (``row + offset``), minus padding."""
    seen = torch.arange(keys, device=row.device) <= (row + offset)[..., None]
    if key_valid is not None:
        seen = seen & key_valid[:, None]
    return seen[:, None]


def ranks(score: Float[Tensor, "b v"], valid: Bool[Tensor, "b v"]) -> Int[Tensor, "b v"]:
    """Place of every entry when sorted by descending score: 0 is best, ties go to the earlier entry.

    Invalid entries rank behind all valid ones, so ``ranks(...) < count`` keeps the same tokens alone and in a batch.
    A NaN score counts as the lowest.
    """
    floor = torch.finfo(torch.float32).min
    score = torch.nan_to_num(score.float(), nan=floor, neginf=floor).masked_fill(~valid, -math.inf)
    order = score.argsort(dim=1, descending=True, stable=True)
    place = torch.arange(score.shape[1], device=score.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, place)


def group_ranks(
    place: Int[Tensor, "b v"],
    group: Int[Tensor, "b v"],
    size: Int[Tensor, "b v"],
    valid: Bool[Tensor, "b v"],
) -> Int[Tensor, "b v"]:
    """Places (see :func:`ranks`) such that the best ``k`` contain the same share of every group, for any ``k``.

    The ``r``-th best of a group of ``s`` entries has the key ``(r + 1/2) / s``, so the first ``k`` places are the
    apportionment of ``k`` seats by Webster's method: the number of seats of a group depends on the sizes alone, is
    ``k * s / total`` to within rounding, and never falls as ``k`` grows. Groups with equal keys are ordered by
    multiples of the golden ratio of their numbers, so that a few seats among many groups are not all at the beginning.

    Args:
        place: by score, 0 is best.
        group: number of each entry's group, below 2**31.
        size: number of entries of its group, including those already dropped; the same for all entries of a group.
        valid: invalid entries get the last places.
    """
    at = torch.arange(place.shape[1], device=place.device).expand_as(place)
    order = (group.masked_fill(~valid, 2**31) * place.shape[1] + place).argsort(dim=1)
    sorted_group = group.masked_fill(~valid, 2**31).gather(1, order)
    first = torch.ones_like(valid)
    first[:, 1:] = sorted_group[:, 1:] != sorted_group[:, :-1]
    within = at - torch.where(first, at, 0).cummax(1).values
    within = torch.empty_like(order).scatter_(1, order, within)
    due = ((2 * within + 1) << 30) // size.clamp(min=1)  # whole numbers: equal ones are equal on every device
    turn = (group * 0x9E3779B1) % 2**32
    due = (due * 2**32 + turn).masked_fill(~valid, torch.iinfo(torch.int64).max)
    return torch.empty_like(order).scatter_(1, due.argsort(dim=1, stable=True), at)


def first_ranked(
    place: Int[Tensor, "b m"], valid: Bool[Tensor, "b m"], count: Int[Tensor, " b"], width: int
) -> tuple[Int[Tensor, "b q"], Bool[Tensor, "b q"]]:
    """Indices of the ``count`` best places (see :func:`ranks`), best first, and a mask over the ``width`` columns."""
    index = place.masked_fill(~valid, place.shape[1]).argsort(dim=1, stable=True)[:, :width]
    return index, (torch.arange(width, device=place.device) < count[:, None]).expand_as(index)


def reads_are_free(x: Tensor) -> bool:
    """Whether the host can read numbers without waiting for other work on the device."""
    return x.device.type == "cpu"


def host_values(x: Tensor) -> array[float]:
    """The numbers of a tensor on a CPU, where reading them waits for nothing, in fp64."""
    values = array("d", bytes(8 * x.numel()))
    if values:
        torch.frombuffer(values, dtype=torch.float64).copy_(x.flatten())
    return values


def as_array(x: Tensor) -> np.ndarray:
    """A tensor on a CPU for numpy, where reading it waits for nothing; the same memory, not to be written to."""
    return np.from_dlpack(x.detach())


def chunks(size: int) -> Iterator[slice]:
    """``size`` rows, a bounded number of them at a time; the first chunk may have fewer than the others."""
    ends = range(size, 0, -ROW_CHUNK)
    return (slice(max(end - ROW_CHUNK, 0), end) for end in reversed(ends))


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances [b, m, n] from exact differences, not a matrix product, so independent of the batch."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
