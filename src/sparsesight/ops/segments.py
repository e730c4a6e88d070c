"""Segments of a clip, and density-peaks anchors within them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .merging import Merge
from .points import Points, fixed_points, unit_vectors
from .rows import chunks, gather_rows, ranks
from .spacing import number_groups

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

NEIGHBOURS = 4  # nearest ones that a density is of


def frame_segments(
    x: Float[Tensor, "b v c"],
    frame: Int[Tensor, "b v"],
    valid: Bool[Tensor, "b v"],
    least: int,
    threshold: float,
) -> Int[Tensor, "b v"]:
    """The number of each token's segment: runs of frames whose features are alike (FastVID, section 3.2).

    A frame's feature is the mean of its tokens, in fp64. Segments end at the ``least - 1`` smallest cosines of adjacent
    frames (of equals, the earlier ones), and wherever a cosine is below ``threshold``.

    Args:
        x: tokens.
        frame: number of each token's frame, ascending in time, below 2**31.
        valid: False on padding, whose segment means nothing.
        least: number of segments that there are at least, if there are as many frames.
        threshold: of the cosine.
    """
    at = torch.arange(valid.shape[1], device=x.device).expand_as(frame)
    number, _, _ = number_groups(frame, at, valid)
    wide = x.double().masked_fill(~valid[..., None], 0)
    mean = torch.zeros_like(wide).scatter_add_(1, number[..., None].expand_as(wide), wide)
    exists = torch.zeros_like(valid).scatter_(1, number, valid)  # padding is the last group, if it is one
    unit = unit_vectors(mean, exists)
    alike = (unit[:, 1:] * unit[:, :-1]).sum(-1)
    follows = exists[:, 1:] & exists[:, :-1]
    cut = follows & ((ranks(-alike, follows) < least - 1) | (alike < threshold))
    return torch.nn.functional.pad(cut.long(), (1, 0)).cumsum(1).gather(1, number)


def anchor_merge(
    x: Float[Tensor, "b m c"],
    frame: Int[Tensor, "b m"],
    segment: Int[Tensor, "b m"],
    sizes: Sequence[int],
    clusters: Sequence[int],
    interval: int,
    weight: float,
) -> Merge:
    """Merge the tokens of every segment into anchors of some of its frames (FastVID, section 3.3).

    Frames number 0, ``interval``, ``2 interval``, ... of a segment give anchors. A frame's number of anchors is
    proportional to the tokens of its segment by the number of such frames (Webster's method, as :func:`group_ranks`);
    other frames only give some if these have too few tokens. A frame's anchors have the largest ``rho * delta``: ``rho
    = exp(-mean of the squared distances to the nearest tokens of the frame)``, ``delta`` the distance to the nearest
    token with larger ``rho``, or the largest one in the frame. Of equal densities the earlier token's counts as larger.

    For each frame with anchors, every other token of its segment joins the anchor with the largest cosine; an anchor
    becomes ``weight`` times itself and ``1 - weight`` times the mean of what joined it. A segment without an anchor
    joins those of all others. :attr:`Merge.assign` has the nearest of these anchors.

    Distances are of unit vectors, and exact (:func:`.points.fixed_points`).

    Args:
        x: tokens in order; sample ``i`` has ``sizes[i]`` of them, padding follows.
        frame: number of each token's frame, ascending, below 2**31.
        segment: number of each token's segment, ascending.
        sizes, clusters: per sample, on the host; ``clusters[i] <= sizes[i]``.
        interval: from one frame with anchors to the next.
        weight: of the anchor itself.
    """
    (b, m), width, device = x.shape[:2], max(clusters), x.device
    at = torch.arange(m, device=device).expand(b, m)
    valid = at < torch.tensor(sizes, device=device)[:, None]
    count = torch.tensor(clusters, device=device)[:, None]
    with torch.no_grad():
        points = fixed_points(x, valid)
        place = ranks(_peak_scores(points, frame, valid), valid)
        chosen = ranks(-_due(frame, segment, place, valid, interval), valid) < count
        centre = (~chosen).to(torch.uint8).argsort(dim=1, stable=True)[:, :width]
        exists = torch.arange(width, device=device) < count
        squared = points.from_tokens(centre)
        same = (segment.gather(1, centre)[..., None] == segment[:, None]) & exists[..., None]
        allowed = same | (exists[..., None] & ~same.any(1, keepdim=True))
        squared = squared.masked_fill(~allowed, math.inf)
        # Of each frame with anchors, the nearest one.
        own = torch.arange(width, device=device).expand(b, width)
        frame_of = frame.gather(1, centre)
        first = torch.ones_like(exists)
        first[:, 1:] = frame_of[:, 1:] != frame_of[:, :-1]
        group = torch.where(first, own, 0).cummax(1).values[..., None].expand_as(squared)
        least = torch.full_like(squared, math.inf).scatter_reduce_(1, group, squared, "amin")
        joins = allowed & (squared == least.gather(1, group)) & (valid & ~chosen)[:, None]
        assign = squared.argmin(1)
        scratch = torch.cat((assign, assign[:, :1]), 1)  # anchors belong to themselves
        assign = scratch.scatter(1, centre.masked_fill(~exists, m), own)[:, :m]
    x = x.float().masked_fill(~valid[..., None], 0)
    member, anchor = joins.float(), gather_rows(x, centre)
    joined = member.sum(-1, keepdim=True)
    mean = member @ x / joined.clamp(min=1)
    tokens = torch.where(joined > 0, weight * anchor + (1 - weight) * mean, anchor)
    return Merge(tokens.masked_fill(~exists[..., None], 0), centre, assign, exists)


def _peak_scores(
    points: Points, frame: Int[Tensor, "b m"], valid: Bool[Tensor, "b m"]
) -> Float[Tensor, "b m"]:
    """The logarithm of density times distance to a denser token, of every token within its frame."""
    m = valid.shape[1]
    at = torch.arange(m, device=frame.device)

    def pairs(some: slice) -> tuple[Tensor, Tensor]:
        """Squared distances of some tokens to all, and which of these are others of their frame."""
        other = (frame[:, some, None] == frame[:, None]) & valid[:, some, None] & valid[:, None]
        return points.from_tokens(at[some].expand(len(frame), -1)), other & (at[some, None] != at)

    density = []
    for some in chunks(m):
        squared, other = pairs(some)
        near = squared.masked_fill(~other, math.inf).topk(min(NEIGHBOURS, m), dim=-1, largest=False).values
        known = near.isfinite()
        density.append(-near.masked_fill(~known, 0).sum(-1) / known.sum(-1).clamp(min=1))
    log_density = torch.cat(density, 1)
    separation = []
    for some in chunks(m):
        squared, other = pairs(some)
        own, all_ = log_density[:, some, None], log_density[:, None]
        denser = other & ((all_ > own) | ((all_ == own) & (at < at[some, None])))
        nearest, farthest = (
            squared.masked_fill(~denser, math.inf).amin(-1),
            squared.masked_fill(~other, 0).amax(-1),
        )
        separation.append(torch.where(nearest.isinf(), farthest, nearest))
    return (log_density + torch.cat(separation, 1).log() / 2).float()


def _due(
    frame: Int[Tensor, "b m"],
    segment: Int[Tensor, "b m"],
    place: Int[Tensor, "b m"],
    valid: Bool[Tensor, "b m"],
    interval: int,
) -> Float[Tensor, "b m"]:
    """When a token becomes an anchor, smallest first: those of the frames that give anchors before all others."""
    m = valid.shape[1]
    at = torch.arange(m, device=frame.device).expand_as(frame)
    number, _, within = number_groups(frame, place, valid)
    part, _, _ = number_groups(segment, at, valid)
    size = torch.zeros_like(part).scatter_add_(1, part, valid.long()).gather(1, part).clamp(min=1)
    start = torch.full_like(part, m).scatter_reduce_(1, part, number, "amin").gather(1, part)
    end = torch.zeros_like(part).scatter_reduce_(1, part, number, "amax").gather(1, part)
    giving = (end - start) // interval + 1
    due = (within + 0.5) * giving / size  # at most m
    return torch.where((number - start) % interval == 0, due, due + m + 1)
