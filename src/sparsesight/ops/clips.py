"""Frames of a clip: what differs from its frame and from the clip."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .points import unit_vectors
from .rows import gather_rows, ranks
from .spacing import number_groups

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

BANDWIDTHS = (1 / 8, 1 / 4, 1 / 2, 1, 2)


def unlike_mean_ranks(
    x: Float[Tensor, "b v c"], frame: Int[Tensor, "b v"], valid: Bool[Tensor, "b v"], temperature: float
) -> Int[Tensor, "b v"]:
    """Places (see :func:`ranks`) of tokens by how unlike the means of their frame and of the clip they are (VidCom2).

    Unit vectors on the half of the channels with the least variance are compared with both means by a sum of Gaussian
    kernels of :data:`BANDWIDTHS`. The first ``k`` places contain of each frame a share proportional to its size times
    ``1 + s - mean s``, to within rounding (Webster's method, as :func:`group_ranks`), with ``s`` the softmax over
    frames of how unlike the clip their tokens are, divided by ``temperature``.

    Sums run in fp64, so that padding cannot change an order.

    Args:
        x: tokens.
        frame: number of each token's frame, below 2**31.
        valid: False on padding, which gets the last places.
        temperature: of the softmax over frames.
    """
    count = valid.sum(1).clamp(min=1)[:, None]
    wide = x.double().masked_fill(~valid[..., None], 0)
    mean = wide.sum(1) / count
    variance = (wide.square().sum(1) / count - mean.square()).float()
    steady = ranks(-variance, torch.ones_like(variance, dtype=torch.bool)) < max(x.shape[2] // 2, 1)
    unit = unit_vectors(x * steady[:, None], valid).double()
    at = torch.arange(valid.shape[1], device=x.device).expand_as(frame)
    number, _, _ = number_groups(frame, at, valid)

    def per_frame(y: Tensor) -> Tensor:
        """Sums over the tokens of each frame: [b, v, ...] -> [b, frames, ...], as many frames as there may be."""
        index = number.view(*number.shape, *(1,) * (y.ndim - 2)).expand_as(y)
        return torch.zeros_like(y).scatter_add_(1, index, y)

    size = per_frame(valid.double())
    centre = unit.sum(1) / count
    own = gather_rows(per_frame(unit) / size.clamp(min=1)[..., None], number)
    like_clip, like_frame = _kernels(unit - centre[:, None]), _kernels(unit - own)
    exists = size > 0
    unlike = -per_frame(like_clip.masked_fill(~valid, 0)) / size.clamp(min=1)
    share = (unlike / temperature).masked_fill(~exists, -math.inf).softmax(1)
    weight = (1 + share - share.sum(1, keepdim=True) / exists.sum(1, keepdim=True).clamp(min=1)).float()
    place = ranks(-(like_clip + like_frame).float(), valid)
    _, _, within = number_groups(frame, place, valid)
    due = (within + 0.5) / (size.float() * weight).gather(1, number).clamp(min=1e-6)
    return ranks(-due, valid)


def _kernels(difference: Float[Tensor, "b v c"]) -> Float[Tensor, "b v"]:
    squared = difference.square().sum(-1)
    total = torch.zeros_like(squared)
    for bandwidth in BANDWIDTHS:
        total += torch.exp(-squared / (2 * bandwidth))
    return total
