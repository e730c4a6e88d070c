"""Selecting tokens that cover others: greedy maximisation of a facility-location function.

What covers what is a matrix of targets by tokens, which is held: ``v ** 2`` numbers per sample if the targets are the
tokens themselves.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .greedy import Coverage, added_coverage, select
from .matching import cosine_similarity
from .places import one_by_one, with_rest
from .points import unit_vectors
from .rows import gather_rows, reads_are_free

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


def cosine_coverage(x: Float[Tensor, "b v c"], valid: Bool[Tensor, "b v"]) -> Float[Tensor, "b v v"]:
    """A token covers another by their cosine, if that is positive; padding covers nothing and is not covered."""
    unit = unit_vectors(x, valid)
    return cosine_similarity(unit, unit).clamp_(min=0)


def softmax_coverage(
    target: Float[Tensor, "b i c"],
    x: Float[Tensor, "b v c"],
    is_target: Bool[Tensor, "b i"],
    valid: Bool[Tensor, "b v"],
    temperature: float,
) -> Float[Tensor, "b i v"]:
    """The softmax over tokens of a target's cosines divided by ``temperature``, divided by the number of targets."""
    alike = cosine_similarity(unit_vectors(target, is_target), unit_vectors(x, valid))
    share = (alike / temperature).masked_fill(~valid[:, None], -math.inf).softmax(-1)
    count = is_target.sum(1).clamp(min=1)[:, None, None]
    return torch.where(is_target[..., None] & valid[:, None], share / count, 0)


def coverage_ranks(
    cover: Float[Tensor, "b i v"],
    weight: Float[Tensor, "b v"],
    valid: Bool[Tensor, "b v"],
    keep: Int[Tensor, " b"],
    steps: int,
) -> Int[Tensor, "b v"]:
    """One by one, the token that adds most to ``sum_i max_{j selected} cover_ij``, multiplied by its weight.

    The remaining places are ordered by what a token would still add.

    Args:
        cover: how much a target (row) is covered by a token (column), not negative; zero for padding.
        weight: of every token, not negative.
        valid: False on padding, which is never selected.
        keep: number of tokens to select per sample; with fewer valid tokens, all are selected.
        steps: the largest of ``keep``, on the host.
    """
    if reads_are_free(cover):

        def choose(sample: int, column: Tensor, count: int) -> tuple[list[int], Tensor]:
            own = cover[sample]
            found = Coverage(own if len(column) == own.shape[1] else own[:, column], weight[sample, column])
            order = select(found, count)
            found.commit()
            return order, torch.from_numpy(found.gain)

        return one_by_one(choose, valid, keep)
    at = torch.arange(valid.shape[1], device=valid.device)
    covered = cover.new_zeros(*cover.shape[:2], 1)
    taken, place = torch.zeros_like(valid), torch.zeros_like(at).expand_as(valid)
    gain = weight.double() * added_coverage(cover, covered)
    for step in range(min(steps, valid.shape[1])):
        free = valid & ~taken & (step < keep)[:, None]
        pick = gain.float().masked_fill(~free, -math.inf).argmax(1, keepdim=True)  # of equals, the first
        new = (at == pick) & free
        place, taken = torch.where(new, step, place), taken | new
        more = torch.maximum(covered, gather_rows(cover.transpose(1, 2), pick).transpose(1, 2))
        covered = torch.where(new.any(1)[:, None, None], more, covered)
        gain = weight.double() * added_coverage(cover, covered)
    return with_rest(place, taken, gain.masked_fill((keep == 0)[:, None], 0), valid)
