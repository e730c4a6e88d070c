"""Merging tokens by density-peaks clustering."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from .rows import ROW_CHUNK, chunks, distances, gather_rows, reads_are_free

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


MANY = 512  # tokens from which on fewer distances save more than looking at neighbours costs
NEAREST = 16  # neighbours that are kept in mind


class Near(NamedTuple):
    """The nearest neighbours of every token, itself included."""

    distance: Float[Tensor, "b m n"]  # ascending; infinite for padding
    place: Int[Tensor, "b m n"]


class Merge(NamedTuple):
    """Tokens merged by :func:`density_peaks_merge`."""

    tokens: Float[Tensor, "b q c"]  # merged tokens, fp32
    centre: Int[Tensor, "b q"]  # index of each cluster's centre among the inputs
    assign: Int[Tensor, "b m"]  # cluster of every input
    exists: Bool[Tensor, "b q"]  # False where a sample has fewer clusters than the widest one


def density_peaks_merge(x: Float[Tensor, "b m c"], sizes: Sequence[int], clusters: Sequence[int]) -> Merge:
    """Merge recycled tokens by density-peaks clustering (SparseVLM, section 3.4; DPC-KNN).

    Density is ``exp(-mean of the k smallest squared distances, itself included)`` with distances ``|a - b| / sqrt(c)``
    and ``k`` the cluster count; delta is the smallest distance to a denser token (the largest distance of the sample
    if there is none); the ``k`` largest ``density * delta`` are centres, and every token joins its nearest centre.
    A cluster's token is its sum over ``count + 1e-6``.

    Densities are compared as logarithms: the order is the same, and with large hidden states they cannot underflow to
    a tie that rounding would decide.

    Args:
        x: tokens to merge; sample ``i`` has ``sizes[i]`` of them, padding follows.
        sizes: tokens per sample (host numbers: every shape follows from the schedule).
        clusters: clusters per sample (``k``), at most ``sizes[i]``.
    """
    b, m, _ = x.shape
    width, device = max(clusters), x.device
    count = torch.tensor(clusters, device=device)[:, None]
    valid = torch.arange(m, device=device) < torch.tensor(sizes, device=device)[:, None]
    x = x.float().masked_fill(~valid[..., None], 0)  # also in sums, where zero times NaN would be NaN
    exists = torch.arange(width, device=device) < count
    own = torch.arange(width, device=device).expand(b, width)
    with torch.no_grad():
        # Three passes over the distances, a bounded number of rows at a time: memory stays linear in the tokens.
        # Exact differences, not a matmul: every decision below depends on these, and must not depend on the batch.
        log_density, largest, near = _log_density(x, valid, exists, count)
        delta = _separation(x, valid, log_density, near)
        delta = torch.where(delta.isinf(), largest[:, None], delta)
        centre = _peaks(log_density + delta.log(), sizes, clusters, width)
        centres = gather_rows(x, centre)
        nearest_centre = [
            _distance(x[:, rows], centres).masked_fill(~exists[:, None], math.inf).argmin(-1)
            for rows in chunks(m)
        ]
        assign = torch.cat(nearest_centre, 1)
        # Centres join themselves, also among duplicates.
        scratch = torch.cat((assign, assign[:, :1]), 1)
        assign = scratch.scatter(1, centre.masked_fill(~exists, m), own)[:, :m]
    tokens = []
    for some in chunks(width):
        weight = ((assign[:, None] == own[:, some, None]) & valid[:, None]).float()
        tokens.append(weight @ x / (weight.sum(-1, keepdim=True) + 1e-6))
    return Merge(torch.cat(tokens, 1), centre, assign, exists)


def _log_density(
    x: Float[Tensor, "b m c"],
    valid: Bool[Tensor, "b m"],
    exists: Bool[Tensor, "b q"],
    count: Int[Tensor, "b 1"],
) -> tuple[Float[Tensor, "b m"], Float[Tensor, " b"], Near | None]:
    """The logarithm of every token's density, the largest distance of a sample, and neighbours if they save work."""
    m, width = x.shape[1], exists.shape[1]
    density, largest = [], x.new_zeros(x.shape[0])
    near = None
    if m >= MANY and reads_are_free(x):
        shape = (x.shape[0], m, min(width, m, NEAREST))
        near = Near(x.new_empty(shape), torch.empty(shape, dtype=torch.int32, device=x.device))
    for rows in chunks(m):
        pair = valid[:, rows, None] & valid[:, None]
        distance = _distance(x[:, rows], x)
        largest = torch.maximum(largest, distance.masked_fill(~pair, 0).amax((1, 2)))
        nearest, index = distance.masked_fill_(~pair, math.inf).topk(min(width, m), dim=-1, largest=False)
        if near is not None:
            near.distance[:, rows], near.place[:, rows] = nearest[..., :NEAREST], index[..., :NEAREST].int()
        counted = exists[:, None, : nearest.shape[-1]] & nearest.square_().isfinite()
        density.append(-nearest.masked_fill(~counted, 0).sum(-1) / count.clamp(min=1))
    return torch.cat(density, 1), largest, near


def _separation(
    x: Float[Tensor, "b m c"],
    valid: Bool[Tensor, "b m"],
    log_density: Float[Tensor, "b m"],
    near: Near | None,
) -> Float[Tensor, "b m"]:
    """The distance of every token to the nearest denser one; infinite if there is none.

    Most tokens have a denser one among their nearest neighbours; where looking costs nothing, distances to others are
    only computed for the rest. Elsewhere it is searched among those before it in order of density.
    """
    if near is not None:
        found = torch.empty_like(log_density)
        for rows in chunks(x.shape[1]):
            other = log_density.gather(1, near.place[:, rows].long().flatten(1)).view_as(near.place[:, rows])
            denser = other > log_density[:, rows, None]
            found[:, rows] = near.distance[:, rows].masked_fill(~denser, math.inf).amin(-1)
        for i, missing in enumerate((found.isinf() & valid).unbind()):
            for some in missing.nonzero()[:, 0].split(ROW_CHUNK):
                denser = valid[i] & (log_density[i] > log_density[i, some, None])
                distance = _distance(x[i : i + 1, some], x[i : i + 1])[0]
                found[i, some] = distance.masked_fill_(~denser, math.inf).amin(-1)
        return found
    order = log_density.masked_fill(~valid, -math.inf).argsort(dim=1, descending=True, stable=True)
    x, dense, valid = gather_rows(x, order), log_density.gather(1, order), valid.gather(1, order)
    separation = []
    for rows in chunks(x.shape[1]):
        denser = valid[:, rows, None] & valid[:, None, : rows.stop]
        denser &= dense[:, None, : rows.stop] > dense[:, rows, None]
        distance = _distance(x[:, rows], x[:, : rows.stop])
        separation.append(distance.masked_fill_(~denser, math.inf).amin(-1))
    return torch.empty_like(dense).scatter_(1, order, torch.cat(separation, 1))


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances divided by the square root of the width."""
    return distances(a, b) / math.sqrt(a.shape[-1])


def _peaks(
    peak: Float[Tensor, "b m"], sizes: Sequence[int], clusters: Sequence[int], width: int
) -> Int[Tensor, "b q"]:
    """Indices of the ``k`` largest entries of every sample, best first.

    With two clusters the two densest tokens are each other's nearest and tie exactly. As in the published code, the
    order of ``topk`` decides, here over a sample's own entries only, so that it does not depend on the batch.
    """
    centre = torch.zeros(peak.shape[0], width, dtype=torch.long, device=peak.device)
    for size, k in sorted(set(zip(sizes, clusters, strict=True))):
        rows = [i for i, key in enumerate(zip(sizes, clusters, strict=True)) if key == (size, k)]
        every = len(rows) == peak.shape[0]
        best = (peak if every else peak[rows])[:, :size].topk(k, dim=1).indices
        if every:
            centre[:, :k] = best
        else:
            centre[rows, :k] = best
    return centre
