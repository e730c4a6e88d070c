"""Selection by position in the picture: even spacing, pooling of grids, shares of regions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from .matching import group_means
from .merging import Merge
from .rows import group_ranks, ranks

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


class Groups(NamedTuple):
    """For every token: its place in its group, the group's size, and how many of the group may stay."""

    within: Int[Tensor, "b v"]
    size: Int[Tensor, "b v"]
    seats: Int[Tensor, "b v"]
    start: Int[Tensor, "b v"]  # number of tokens in the groups before


def number_groups(
    group: Int[Tensor, "b v"], place: Int[Tensor, "b v"], valid: Bool[Tensor, "b v"]
) -> tuple[Int[Tensor, "b v"], Int[Tensor, "b v"], Int[Tensor, "b v"]]:
    """For every entry: its group numbered from 0, the entries of the groups before, and its place within the group.

    Args:
        group: number of each entry's group, below 2**31, in any order and with gaps.
        place: places among all entries, by which those of a group are ordered.
        valid: False on padding, which is a group of its own, the last.
    """
    width = group.shape[1]
    at = torch.arange(width, device=group.device).expand_as(group)
    sort = (group.masked_fill(~valid, 2**31) * width + place).argsort(dim=1)
    ordered = group.masked_fill(~valid, 2**31).gather(1, sort)
    first = torch.ones_like(valid)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    run = torch.empty_like(sort).scatter_(1, sort, first.cumsum(1) - 1)
    start = torch.empty_like(sort).scatter_(1, sort, torch.where(first, at, 0).cummax(1).values)
    within = torch.empty_like(sort).scatter_(1, sort, at) - start
    return run, start, within


def group_seats(group: Int[Tensor, "b v"], valid: Bool[Tensor, "b v"], keep: Int[Tensor, " b"]) -> Groups:
    """Apportion ``keep`` seats over groups by their sizes, as :func:`group_ranks` does.

    Args:
        group: number of each entry's group, below 2**31.
        valid: False on padding, which belongs to no group.
        keep: seats of a sample.
    """
    at = torch.arange(group.shape[1], device=group.device).expand_as(group)
    run, start, within = number_groups(group, at, valid)

    def total(flag: Tensor) -> Tensor:
        return torch.zeros_like(run).scatter_add_(1, run, flag.long()).gather(1, run)

    size = total(valid)
    chosen = valid & (group_ranks(at, group, size, valid) < keep[:, None])
    return Groups(within, size, total(chosen), start)


def evenly_spaced(groups: Groups, valid: Bool[Tensor, "b v"]) -> Bool[Tensor, "b v"]:
    """From each group of ``n`` tokens, numbers ``floor((j + 1/2) n / k)``, one for each of its ``k`` seats."""
    n, k = groups.size.clamp(min=1), groups.seats

    def before(i: Tensor) -> Tensor:
        return (2 * k * i + n - 1) // (2 * n)

    return valid & (before(groups.within + 1) > before(groups.within))


def grid_pool(
    x: Float[Tensor, "b m c"], group: Int[Tensor, "b m"], sizes: Sequence[int], clusters: Sequence[int]
) -> Merge:
    """Average pooling of each group's grid to as many cells as it has seats (:func:`group_seats`).

    A group of ``n`` tokens is treated as a grid of ``h x w = n`` as nearly square as its divisors allow, ``h <= w``, in
    raster order. For ``k`` cells its rows are split into about ``sqrt(k h / w)`` bands and each band into its share of
    the cells, so that the count is exactly ``k``, and the cells form a plain grid if ``k`` allows one. A cell takes the
    position of its middle token. A group without a seat is dropped.

    Args:
        x: tokens in order; sample ``i`` has ``sizes[i]`` of them, padding follows.
        group: picture or frame of each token.
        sizes, clusters: per sample, on the host.
    """
    (_, m), width, device = x.shape[:2], max(clusters), x.device
    at = torch.arange(m, device=device)
    valid = at < torch.tensor(sizes, device=device)[:, None]
    count = torch.tensor(clusters, device=device)
    with torch.no_grad():
        groups = group_seats(group, valid, count)
        n, k = groups.size.clamp(min=1), groups.seats
        divisor = torch.arange(1, math.isqrt(max(m, 1)) + 1, device=device)
        fits = (n[..., None] % divisor == 0) & (divisor.square() <= n[..., None])
        h = torch.where(fits, divisor, 1).amax(-1)
        w = n // h
        seats = k.clamp(min=1)
        bands = (seats * h / w).sqrt().round().long()
        bands = torch.minimum(torch.maximum(bands, _up(seats, w)), torch.minimum(h, seats))
        row, column = groups.within // w, groups.within % w
        band = row * bands // h
        base = band * seats // bands
        cells = (band + 1) * seats // bands - base
        cell = column * cells // w
        middle = (row == _middle(band, h, bands)) & (column == _middle(cell, w, cells))
        is_centre = valid & middle & (k > 0)
        # Numbers of cells are unique below m: no group has more of them than tokens.
        number = (groups.start + base + cell).masked_fill(~valid | (k == 0), m)
        order = torch.zeros(x.shape[0], m + 1, dtype=torch.long, device=device)
        order = order.scatter_(1, number.masked_fill(~is_centre, m), is_centre.cumsum(1) - 1)
        assign = order.gather(1, number)
        centre = (~is_centre).to(torch.uint8).argsort(dim=1, stable=True)[:, :width]
        exists = torch.arange(width, device=device) < count[:, None]
    return Merge(group_means(x, assign, valid & (k > 0), width), centre, assign, exists)


def _up(a: Tensor, b: Tensor) -> Tensor:
    """``a / b`` rounded up."""
    return -(-a // b)


def _middle(part: Tensor, length: Tensor, parts: Tensor) -> Tensor:
    """The middle index of one of ``parts`` equal parts of ``length``, the earlier of two."""
    return (_up(part * length, parts) + _up((part + 1) * length, parts) - 1) // 2


def apportion(
    weight: Float[Tensor, "b p"], room: Int[Tensor, "b p"], total: Int[Tensor, " b"]
) -> Int[Tensor, "b p"]:
    """Distribute ``total`` in proportion to ``weight``, to each at most its ``room``.

    Rounded down first; the remainder goes one each to the largest weights, and any excess over ``room`` is distributed
    in the same way among those that have room. ``total`` must not exceed the total room.
    """
    given = torch.zeros_like(room)
    slack = min(1e-4, 0.5 / room.shape[1])  # so that 7.9999995 is not rounded down to 7
    for _ in range(room.shape[1]):  # every round but the last fills a part
        free = given < room
        part = weight.float().clamp(min=1e-30).masked_fill(~free, 0)
        part = part / part.sum(1, keepdim=True).clamp(min=1e-30)
        rest = total[:, None] - given.sum(1, keepdim=True)
        more = (part * rest + slack).floor().long()
        more += free & (ranks(part, free) < rest - more.sum(1, keepdim=True))
        given = torch.minimum(given + more, room)
    return given


class Runs(NamedTuple):
    """Equal runs of the entries of every sample."""

    column: Int[Tensor, "b p s"]
    exists: Bool[Tensor, "b p s"]  # False where a run is shorter than the longest


def even_runs(valid: Bool[Tensor, "b v"], runs: int) -> Runs:
    """The valid entries in order, split into ``runs`` runs; the first ones have one more if they divide unevenly."""
    width = valid.shape[1]
    n = valid.sum(1)[:, None, None]
    number = torch.arange(runs, device=valid.device)[:, None]
    within = torch.arange(-(-width // runs), device=valid.device)
    start = number * (n // runs) + torch.minimum(number, n % runs)
    exists = within < n // runs + (number < n % runs).long()
    order = (~valid).to(torch.uint8).argsort(dim=1, stable=True)
    at = (start + within).clamp(max=max(width - 1, 0)).flatten(1)
    return Runs(order.gather(1, at).view(exists.shape), exists)
