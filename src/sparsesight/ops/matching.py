"""Merging and removing similar tokens.

Similarity is the cosine, from a matrix product in fp64 that is rounded to fp32. The last digits of a product depend on
the shape of the batch and are removed by rounding, so that equal tokens tie, and ties go to the earlier token. A zero
vector has similarity zero to all others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .merging import Merge
from .points import unit_vectors
from .rows import chunks, gather_rows, ranks

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


def cosine_similarity(a: Float[Tensor, "b m c"], b: Float[Tensor, "b n c"]) -> Float[Tensor, "b m n"]:
    """Cosines of unit vectors (or zeros)."""
    return (a.double() @ b.double().transpose(1, 2)).float()


def group_means(
    x: Float[Tensor, "b m c"], assign: Int[Tensor, "b m"], valid: Bool[Tensor, "b m"], groups: int
) -> Float[Tensor, "b q c"]:
    """Mean of the valid rows of every group, in fp32; zero for an empty group."""
    x, own, means = x.float().masked_fill(~valid[..., None], 0), torch.arange(groups, device=x.device), []
    for some in chunks(groups):
        member = ((assign[:, None] == own[some, None]) & valid[:, None]).float()
        means.append(member @ x / member.sum(-1, keepdim=True).clamp(min=1))
    return torch.cat(means, 1) if means else x[:, :0]


def nearest_kept(
    x: Float[Tensor, "b m c"], valid: Bool[Tensor, "b m"], keep: Bool[Tensor, "b m"], most: int
) -> Int[Tensor, "b m"]:
    """For every token the index of the kept token with the largest cosine; of equals, the first.

    Args:
        x: tokens.
        valid: False on padding, for which the result means nothing.
        keep: the kept ones, within ``valid``; a sample without any gets the index of some token.
        most: at least the number of kept tokens of any sample, at least 1.
    """
    unit = unit_vectors(x, valid)
    column = (~keep).to(torch.uint8).argsort(dim=1, stable=True)[:, :most]
    exists = keep.gather(1, column)
    target = gather_rows(unit, column)
    best = [
        cosine_similarity(unit[:, rows], target).masked_fill(~exists[:, None], -math.inf).argmax(-1)
        for rows in chunks(x.shape[1])
    ]
    return column.gather(1, torch.cat(best, 1))


def even_target_merge(
    x: Float[Tensor, "b m c"],
    key: Float[Tensor, "b m d"],
    sizes: Sequence[int],
    clusters: Sequence[int],
    add: bool = False,
) -> Merge:
    """Merge tokens into every ``n``-th token, each into the one with the most similar key (VisionZip, section 3.3).

    Of ``m`` tokens the targets of ``q`` clusters are number 0, ``s``, ``2 s``, ... with ``s = m // q``.

    Args:
        x: tokens in order; sample ``i`` has ``sizes[i]`` of them, padding follows.
        key: the vectors to compare.
        sizes, clusters: per sample, ``clusters[i] <= sizes[i]``.
        add: a merged token is its target plus the mean of the tokens merged into it, as released, not the mean of all.
    """
    (b, m), width, device = x.shape[:2], max(clusters), x.device
    size, count = (torch.tensor(n, device=device)[:, None] for n in (sizes, clusters))
    valid = torch.arange(m, device=device) < size
    own = torch.arange(width, device=device).expand(b, width)
    exists = own < count
    centre = (own * (size // count.clamp(min=1))).masked_fill(~exists, 0)
    with torch.no_grad():
        unit = unit_vectors(key, valid)
        target = gather_rows(unit, centre)
        alike = [
            cosine_similarity(unit[:, rows], target).masked_fill(~exists[:, None], -math.inf)
            for rows in chunks(m)
        ]
        assign = torch.cat([some.argmax(-1) for some in alike], 1)
        scratch = torch.cat(
            (assign, assign[:, :1]), 1
        )  # targets belong to their own cluster, even among equal tokens
        assign = scratch.scatter(1, centre.masked_fill(~exists, m), own)[:, :m]
    if add:
        is_target = torch.zeros(b, m + 1, dtype=torch.bool, device=device)
        is_target = is_target.scatter_(1, centre.masked_fill(~exists, m), True)[:, :m]
        joined = group_means(x, assign, valid & ~is_target, width)
        tokens = joined + gather_rows(x.float(), centre).masked_fill(~exists[..., None], 0)
    else:
        tokens = group_means(x, assign, valid, width)
    return Merge(tokens, centre, assign, exists)


def bipartite_merge(x: Float[Tensor, "b m c"], sizes: Sequence[int], clusters: Sequence[int]) -> Merge:
    """Bipartite soft matching (ToMe, section 3), repeated until ``clusters`` tokens remain.

    A round assigns the remaining tokens alternately to sets A and B and matches each token of A with the most similar
    one in B. The most similar pairs are merged, as many as needed, at most half of all tokens. A merged token is the
    mean of all its members, and takes the position of its member of B.

    Args:
        x: tokens in order; sample ``i`` has ``sizes[i]`` of them, padding follows.
        sizes, clusters: per sample, on the host.
    """
    (b, m), width, device = x.shape[:2], max(clusters), x.device
    at = torch.arange(m, device=device)
    valid = at < torch.tensor(sizes, device=device)[:, None]
    x = x.float().masked_fill(~valid[..., None], 0)
    left = list(sizes)
    with torch.no_grad():
        total, alive, head = x.detach(), valid, at.expand(b, m)  # head: the merged token that each belongs to
        while any(n > k for n, k in zip(left, clusters, strict=True)):
            merges = [min(n - k, n // 2) for n, k in zip(left, clusters, strict=True)]
            count, r = (torch.tensor(n, device=device)[:, None] for n in (left, merges))
            order = (~alive).to(torch.uint8).argsort(dim=1, stable=True)[:, : max(left)]
            is_left = at[: max(left)] < count
            (a, into), (is_a, is_b) = ((y[:, 0::2], y[:, 1::2]) for y in (order, is_left))
            unit = unit_vectors(total, alive)  # a sum has the direction of its mean
            near, other = gather_rows(unit, a), gather_rows(unit, into)
            drawn = [
                cosine_similarity(near[:, rows], other).masked_fill(~is_b[:, None], -math.inf).max(-1)
                for rows in chunks(a.shape[1])
            ]
            best, to = (torch.cat(part, 1) for part in zip(*drawn, strict=True))
            goes = is_a & (ranks(best, is_a) < r)
            given = gather_rows(total, a)
            gains = [
                (goes[:, None] & (to[:, None] == at[: into.shape[1]][some, None])).float() @ given
                for some in chunks(into.shape[1])
            ]
            grown = gather_rows(total, into) + torch.cat(gains, 1)
            total = total.scatter(1, into[..., None].expand_as(grown), grown)
            move = torch.cat((at, at[:1])).expand(b, -1)
            move = move.scatter(1, a.masked_fill(~goes, m), into.gather(1, to))[:, :m]
            head, alive = move.gather(1, head), alive & (move == at)
            left = [n - d for n, d in zip(left, merges, strict=True)]
        centre = (~alive).to(torch.uint8).argsort(dim=1, stable=True)[:, :width]
        assign = (alive.cumsum(1) - 1).clamp(min=0).gather(1, head)
        exists = torch.arange(width, device=device) < torch.tensor(clusters, device=device)[:, None]
    return Merge(group_means(x, assign, valid, width), centre, assign, exists)


def thinned_places(
    x: Float[Tensor, "b v c"],
    place: Int[Tensor, "b v"],
    valid: Bool[Tensor, "b v"],
    held: Int[Tensor, " b"],
    keep: Int[Tensor, " b"],
    step: Int[Tensor, " b"],
    rounds: int,
) -> Int[Tensor, "b v"]:
    """Places (see :func:`ranks`) with the best tokens first, then the most dissimilar ones (VisPruner, section 4.2).

    Duplicates among the other tokens are removed in rounds. A round splits the remaining tokens alternately into two
    halves and removes the ``step`` tokens of the first half that have the most similar token in the second. The rest of
    the first half follows in order of descending similarity, then the second half. Tokens removed later have better
    places.

    The similarities of all pairs are held: ``v ** 2`` numbers per sample.

    Args:
        x: the vectors to compare.
        place: initial place of every token, 0 is best.
        valid: False on padding.
        held: number of best tokens that are kept in any case.
        keep: total number of tokens to keep.
        step: number of tokens removed per round.
        rounds: upper bound on the rounds of every sample.
    """
    width = valid.shape[1]
    at = torch.arange(width, device=x.device)
    is_held = valid & (place < held[:, None])
    left, wanted = (valid & ~is_held).sum(1), keep - is_held.sum(1)
    order = place.masked_fill(~valid | is_held, width).argsort(dim=1, stable=True)
    unit = gather_rows(unit_vectors(x, valid), order)
    alike = cosine_similarity(unit, unit).flatten(1)
    now = at.expand_as(order)  # which of `order` is where: what is left, and behind it what has gone
    for _ in range(rounds):
        (a, b), is_left = (now[:, 0::2], now[:, 1::2]), at < left[:, None]
        is_a, is_b = is_left[:, 0::2], is_left[:, 1::2]
        pairs = alike.gather(1, (a[..., None] * width + b[:, None]).flatten(1)).view(*a.shape, -1)
        rank = ranks(pairs.masked_fill(~is_b[:, None], -math.inf).amax(-1), is_a)
        remove = torch.minimum(torch.minimum(step, left - wanted), left // 2).clamp(min=0)
        stays = is_a & (rank >= remove[:, None])
        key_a = torch.where(stays, rank, torch.where(is_a, 3 * width - rank, 4 * width + at[0::2]))
        key_b = torch.where(is_b, width + at[1::2], 4 * width + at[1::2])
        new = torch.cat((a, b), 1).gather(1, torch.cat((key_a, key_b), 1).argsort(dim=1, stable=True))
        now, left = torch.where(remove[:, None] > 0, new, now), left - remove
    behind = torch.empty_like(order).scatter_(1, order.gather(1, now), is_held.sum(1)[:, None] + at)
    return torch.where(is_held, place, behind)


def likeness_variance(x: Float[Tensor, "b m c"], valid: Bool[Tensor, "b m"]) -> Float[Tensor, "b m"]:
    """The variance of every token's similarity to the other valid tokens; zero if there are none.

    Summed in fp64, so that padding cannot change the order of equal values.
    """
    unit = unit_vectors(x, valid)
    other = valid[:, :, None] & valid[:, None] & ~torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
    alike = cosine_similarity(unit, unit).double()
    count = other.sum(2).clamp(min=1)
    mean = alike.masked_fill(~other, 0).sum(2) / count
    return ((alike - mean[..., None]).square().masked_fill(~other, 0).sum(2) / count).float()
