"""Selecting tokens that differ from each other.

Every function returns *places* like :func:`ranks`: 0 is selected first, so that ``place < keep`` is the selection.
Tokens that are not selected take the places after these, best first, and padding the last ones.

Tokens are compared by squared distances of unit vectors, ``2 - 2 cos``, which are exact: the vectors are rounded to
multiples of a power of two, coarse enough for a matrix product to need no rounding (:func:`fixed_points`). So distances
do not depend on the shape of the batch or the device; equal tokens tie exactly, and ties go to the earlier token. No
large matrix of all pairs is ever held.

With ``rest=False`` the places of tokens that are not selected say nothing about how good they are, and need not be
computed: on a CPU most of the time.

On a CPU each sample is selected by itself, lazily and in blocks (:mod:`.greedy`); other devices take the same steps for
the batch, one by one, as nothing may be read from them (:mod:`.stepwise`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .bounds import DistanceBounds, loneliest
from .determinant import Determinant
from .farthest import FarthestPoint
from .greedy import select
from .places import of_sample, one_by_one, with_rest
from .points import COARSE, FINE, Points, TokenPoints, fixed_points, mean_squared, unit_vectors
from .rows import as_array, chunks, distances, ranks, reads_are_free
from .stepwise import StepwiseDeterminant

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


def farthest_point_ranks(
    x: Float[Tensor, "b v c"],
    valid: Bool[Tensor, "b v"],
    keep: Int[Tensor, " b"],
    steps: int,
    rest: bool = True,
) -> Int[Tensor, "b v"]:
    """Greedy max-min diversity: each step selects the token farthest from its nearest selected one, by cosine distance.

    The first is the token whose nearest neighbour is farthest (DivPrune, arXiv:2503.02175). The remaining places are
    ordered by the distance to the nearest selected token.

    Args:
        x: the vectors to compare.
        valid: False on padding, which is never selected.
        keep: number of tokens to select per sample; with fewer valid tokens, all are selected.
        steps: the largest of ``keep``, on the host.
        rest: False: all tokens that are not selected share one place, behind the selected ones.
    """
    if not reads_are_free(x):
        return _farthest_points(fixed_points(x, valid), valid, keep, steps, rest)

    def choose(sample: int, column: Tensor, count: int) -> tuple[list[int], Tensor | None]:
        own = of_sample(x, sample, column)
        points, bounds = TokenPoints(own), DistanceBounds(own)
        first = loneliest(points, bounds)
        nearest = FarthestPoint(points, bounds, count, first)
        order = select(nearest, count, [first])
        if not rest:
            return order, None
        nearest.commit()
        nearest.refresh(np.arange(len(column)), len(column))
        return order, torch.from_numpy(nearest.gain)

    return one_by_one(choose, valid, keep, rest)


def _farthest_points(points: Points, valid: Tensor, keep: Tensor, steps: int, rest: bool) -> Tensor:
    at = torch.arange(valid.shape[1], device=valid.device)
    rows = [at[some].expand(len(valid), -1) for some in chunks(valid.shape[1])]
    apart = [
        points.from_tokens(row).masked_fill(~valid[:, None] | (row[..., None] == at), math.inf)
        for row in rows
    ]
    nearest = torch.cat([distance.amin(-1) for distance in apart], 1)
    nearest = nearest.masked_fill((keep == 0)[:, None], 0)
    taken, place = torch.zeros_like(valid), torch.zeros_like(at).expand_as(valid)
    for step in range(min(steps, valid.shape[1])):
        free = valid & ~taken & (step < keep)[:, None]
        pick = nearest.masked_fill(~free, -math.inf).argmax(1, keepdim=True)  # of equals, the first
        new = (at == pick) & free
        place, taken = torch.where(new, step, place), taken | new
        distance = points.from_tokens(pick)[:, 0]
        closer = distance if step == 0 else torch.minimum(nearest, distance)
        nearest = torch.where(new.any(1, keepdim=True), closer, nearest)
    return with_rest(place, taken, nearest if rest else None, valid)


def greedy_dpp_map(
    x: Float[Tensor, "b v c"],
    quality: Float[Tensor, "b v"],
    valid: Bool[Tensor, "b v"],
    keep: Int[Tensor, " b"],
    steps: int,
    rest: bool = True,
) -> Int[Tensor, "b v"]:
    """Greedy most probable subset of a determinantal point process with kernel ``diag(q) cos(x, x) diag(q)``.

    Each step selects the token that increases the determinant most, found with an incremental Cholesky factor in time
    linear in the tokens (Chen et al. 2018, arXiv:1709.05135, algorithm 1). If the tokens span fewer dimensions than
    ``keep``, further tokens no longer increase it; the remaining places are ordered by quality.

    Args:
        x: the vectors to compare.
        quality: of every token, not negative.
        valid, keep, steps: as :func:`farthest_point_ranks`.
        rest: False: tokens that are not selected are ordered by quality.
    """
    quality = quality.double().masked_fill(~valid, 0)
    return _greedy_map(
        x,
        FINE,
        lambda squared, a, b: squared.mul_(-0.5).add_(1).mul_(a[..., None]).mul_(b[..., None, :]),
        lambda points: quality,
        quality.square(),
        valid,
        keep,
        steps,
        rest,
    )


def greedy_gaussian_map(
    x: Float[Tensor, "b v c"],
    valid: Bool[Tensor, "b v"],
    keep: Int[Tensor, " b"],
    steps: int,
    favor: Float[Tensor, "b v"] | None = None,
    favored: Sequence[int] = (),
    bandwidth: float = 1.0,
    rest: bool = True,
) -> Int[Tensor, "b v"]:
    """One by one, the token that the selected ones say least about; in the first steps some tokens are favored.

    With ``u`` the unit vectors of a sample's tokens and ``m`` the mean of ``|u_i - u_j|**2`` over all pairs, which is
    ``2 (1 - |mean u|**2)``, the kernel is ``k_ij = exp(-|u_i - u_j|**2 / 2 b m)``, with ``b`` the bandwidth. What the
    selected tokens ``S`` leave unsaid of token ``i`` is the residual variance of a Gaussian process,
    ``v_i(S) = k_ii - k_iS (k_SS)**-1 k_Si``; to add its maximum is greedy inference of a determinantal point process
    (:func:`greedy_dpp_map`), and to add the maximum of ``f_i v_i`` is that with quality ``f_i ** 0.5``. This kernel has
    full rank at any width, while a cosine kernel has at most the rank of the features. The remaining places are ordered
    by ``v``.

    Args:
        x: the vectors to compare, at the precision ``COARSE`` of :func:`fixed_points`.
        valid, keep, steps: as :func:`farthest_point_ranks`.
        favor: multiplies ``v_i`` in a sample's first steps, above 0.
        favored: number of these steps per sample; on the host.
        bandwidth: multiplies ``m``, above 0.
        rest: as :func:`farthest_point_ranks`.
    """

    def rate(points: TokenPoints | Points) -> Tensor:
        if isinstance(points, TokenPoints):
            spread = points.mean_squared()
        else:
            count = valid.sum(1).clamp(min=1).double()
            total, norm = points.x.sum(1, dtype=torch.float64), points.norm.sum(1, dtype=torch.float64)
            spread = mean_squared(total, norm, count, points.scale)
        return (-0.5 / (bandwidth * spread.clamp(min=1e-6))).float()[:, None].expand_as(valid)

    place = _greedy_map(
        x,
        COARSE,
        lambda squared, a, b: squared.float().mul_(a[..., None]).exp_().double(),
        rate,
        valid.double(),
        valid,
        keep,
        steps,
        rest,
        favor,
        favored,
    )
    return place if rest else torch.minimum(place, keep[:, None])


def _greedy_map(
    x: Float[Tensor, "b v c"],
    bits: int,
    kernel: Callable[[Tensor, Tensor, Tensor], Tensor],
    weigh: Callable[[Points | TokenPoints], Tensor],
    own: Float[Tensor, "b v"],
    valid: Bool[Tensor, "b v"],
    keep: Int[Tensor, " b"],
    steps: int,
    rest: bool,
    favor: Float[Tensor, "b v"] | None = None,
    favored: Sequence[int] = (),
) -> Int[Tensor, "b v"]:
    """Greedy inference with the kernel ``kernel(squared distances, weight of the rows, weight of the columns)``."""
    behind = own - own.amax(1, keepdim=True) - 1
    if not reads_are_free(valid):
        points = fixed_points(x, valid, bits)
        found = StepwiseDeterminant(points, kernel, weigh(points), own, keep, min(steps, valid.shape[1]))
        place, taken = found.select(favor, favored)
        return with_rest(place, taken, torch.where(found.adds, found.gain, behind) if rest else behind, valid)

    def choose(sample: int, column: Tensor, count: int) -> tuple[list[int], Tensor]:
        points = TokenPoints(of_sample(x, sample, column), bits)
        weight = weigh(points)
        mine = weight[sample if len(weight) > 1 else 0, column]
        found = Determinant(points, kernel, mine, own[sample, column], count)
        order = list[int]()
        if favor is not None:
            found.favor = as_array(favor[sample, column].double())
            order = select(found, min(favored[sample], count))
            found.favor = None
        order = select(found, count, order)
        if not rest:
            return order, behind[sample, column]
        found.commit()
        found.refresh(np.arange(len(column)), len(column))
        adds = torch.from_numpy(found.worth(found.gain, slice(None))) > -math.inf
        return order, torch.where(adds, torch.from_numpy(found.gain), behind[sample, column])

    return one_by_one(choose, valid, keep)


def least_similar_places(
    x: Float[Tensor, "b v c"],
    valid: Bool[Tensor, "b v"],
    held: Bool[Tensor, "b v"],
    pivot: Float[Tensor, "b p c"],
    exists: Bool[Tensor, "b p"],
    keep: Int[Tensor, " b"],
) -> Int[Tensor, "b v"]:
    """Each pivot in turn selects its share of the tokens that are least similar to it, by cosine.

    Every pivot of a sample selects the same number, the first ones one more if the number does not divide evenly. The
    remaining places are ordered by the distance to the nearest pivot.

    Args:
        x: the vectors to compare.
        valid: False on padding, which is never selected.
        held: tokens that are kept in any case (no more than ``keep``); they take the first places.
        pivot: the vectors that tokens are compared with.
        exists: False on pivots that a sample does not have.
        keep: total number of tokens to select.
    """
    unit, pivot = unit_vectors(x, valid), unit_vectors(pivot, exists)
    taken = held & valid
    place, count = taken.cumsum(1) - 1, taken.sum(1, keepdim=True)
    pivots = exists.sum(1, keepdim=True)
    left = (keep[:, None] - count).clamp(min=0) + pivots - exists.cumsum(1)
    share = torch.where(exists, left // pivots.clamp(min=1), 0)
    nearest = torch.full(valid.shape, math.inf, device=x.device)
    for i in range(pivot.shape[1]):
        distance = distances(unit, pivot[:, i : i + 1])[..., 0]
        nearest = torch.where(exists[:, i : i + 1], torch.minimum(nearest, distance), nearest)
        rank = ranks(distance, valid & ~taken)
        new = valid & ~taken & (rank < share[:, i : i + 1])
        place, taken = torch.where(new, count + rank, place), taken | new
        count = taken.sum(1, keepdim=True)
    return with_rest(place, taken, nearest, valid)
