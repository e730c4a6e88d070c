"""Merging tokens by density-peaks clustering."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from .rows import chunks, distances, gather_rows

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


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
        density, largest = [], x.new_zeros(b)
        for rows in chunks(m):
            pair = valid[:, rows, None] & valid[:, None]
            distance = _distance(x[:, rows], x)
            nearest = distance.masked_fill(~pair, math.inf).square().sort(dim=-1).values[..., :width]
            counted = exists[:, None, : nearest.shape[-1]] & nearest.isfinite()
            density.append(-nearest.masked_fill(~counted, 0).sum(-1) / count.clamp(min=1))
            largest = torch.maximum(largest, distance.masked_fill(~pair, 0).amax((1, 2)))
        log_density = torch.cat(density, 1)
        separation = []
        for rows in chunks(m):
            denser = valid[:, rows, None] & valid[:, None]
            denser &= log_density[:, None] > log_density[:, rows, None]
            separation.append(_distance(x[:, rows], x).masked_fill(~denser, math.inf).amin(-1))
        delta = torch.cat(separation, 1)
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
