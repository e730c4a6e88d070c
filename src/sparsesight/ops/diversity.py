"""Selecting tokens that differ from each other.

Every function returns *places* like :func:`ranks`: 0 is selected first, so that ``place < keep`` is the selection.
Tokens that are not selected take the places after these, best first, and padding the last ones.

Similarity is the cosine. It is computed from exact differences of unit vectors (``1 - d**2 / 2``) rather than from a
matrix product, whose last digits depend on the shape of the batch: equal tokens tie exactly, and ties go to the earlier
token. No matrix of all pairs is ever held.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .rows import chunks, distances, gather_rows, ranks

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

# A gain below this fraction of a token's own quality is fp32 rounding, not new information.
EXHAUSTED = 1e-5


def unit_vectors(x: Float[Tensor, "b v c"], valid: Bool[Tensor, "b v"]) -> Float[Tensor, "b v c"]:
    """Rows of unit length in fp32; padding is zero."""
    return torch.nn.functional.normalize(x.float().masked_fill(~valid[..., None], 0), dim=-1)


def farthest_point_ranks(
    x: Float[Tensor, "b v c"], valid: Bool[Tensor, "b v"], keep: Int[Tensor, " b"], steps: int
) -> Int[Tensor, "b v"]:
    """Greedy max-min diversity: each step selects the token farthest from its nearest selected one, by cosine distance.

    The first is the token whose nearest neighbour is farthest (DivPrune, arXiv:2503.02175). The remaining places are
    ordered by the distance to the nearest selected token.

    Args:
        x: the vectors to compare.
        valid: False on padding, which is never selected.
        keep: number of tokens to select per sample; with fewer valid tokens, all are selected.
        steps: the largest of ``keep``, on the host.
    """
    unit = unit_vectors(x, valid)
    at = torch.arange(valid.shape[1], device=x.device)
    nearest = torch.cat(
        [
            distances(unit[:, rows], unit)
            .masked_fill(~valid[:, None] | (at[rows, None] == at), math.inf)
            .amin(-1)
            for rows in chunks(valid.shape[1])
        ],
        1,
    )
    taken, place = torch.zeros_like(valid), torch.zeros_like(at).expand_as(valid)
    for step in range(min(steps, valid.shape[1])):
        free = valid & ~taken & (step < keep)[:, None]
        pick = nearest.masked_fill(~free, -math.inf).argmax(1, keepdim=True)  # of equals, the first
        new = (at == pick) & free
        place, taken = torch.where(new, step, place), taken | new
        distance = distances(unit, gather_rows(unit, pick))[..., 0]
        closer = distance if step == 0 else torch.minimum(nearest, distance)
        nearest = torch.where(new.any(1, keepdim=True), closer, nearest)
    return _with_rest(place, taken, nearest, valid)


def greedy_dpp_map(
    x: Float[Tensor, "b v c"],
    quality: Float[Tensor, "b v"],
    valid: Bool[Tensor, "b v"],
    keep: Int[Tensor, " b"],
    steps: int,
) -> Int[Tensor, "b v"]:
    """Greedy most probable subset of a determinantal point process with kernel ``diag(q) cos(x, x) diag(q)``.

    Each step selects the token that increases the determinant most, found with an incremental Cholesky factor in time
    linear in the tokens (Chen et al. 2018, arXiv:1709.05135, algorithm 1). If the tokens span fewer dimensions than
    ``keep``, further tokens no longer increase it; the remaining places are ordered by quality.

    Args:
        x: the vectors to compare.
        quality: of every token, not negative.
        valid, keep, steps: as :func:`farthest_point_ranks`.
    """
    unit = unit_vectors(x, valid)
    quality = quality.float().masked_fill(~valid, 0)
    at = torch.arange(valid.shape[1], device=x.device)
    steps = min(steps, valid.shape[1])
    gain = own = quality.square()  # log-determinants differ by the logarithm of this
    taken, place = torch.zeros_like(valid), torch.zeros_like(at).expand_as(valid)
    factor = quality.new_zeros(steps, *quality.shape)
    for step in range(steps):
        free = valid & ~taken & (gain > EXHAUSTED * own) & (step < keep)[:, None]
        pick = gain.masked_fill(~free, -math.inf).argmax(1, keepdim=True)  # of equals, the first
        new = (at == pick) & free
        place, taken = torch.where(new, step, place), taken | new
        alike = 1 - distances(unit, gather_rows(unit, pick))[..., 0].square() / 2
        known = (factor[:step] * factor[:step].gather(2, pick.expand(step, -1, -1))).sum(0)
        rest = alike * quality * quality.gather(1, pick) - known
        rest = rest / gain.gather(1, pick).clamp(min=torch.finfo(torch.float32).tiny).sqrt()
        factor[step] = torch.where(new.any(1, keepdim=True), rest, 0)
        gain = gain - factor[step].square()
    behind = own - own.amax(1, keepdim=True) - 1
    return _with_rest(place, taken, torch.where(gain > EXHAUSTED * own, gain, behind), valid)


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
    return _with_rest(place, taken, nearest, valid)


def _with_rest(place: Tensor, taken: Tensor, score: Tensor, valid: Tensor) -> Tensor:
    """The places of the selected tokens, followed by the others in order of descending score."""
    return torch.where(taken, place, taken.sum(1, keepdim=True) + ranks(score, valid & ~taken))
