"""Which parts of a picture follow from their neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


def predicted_units(units: Float[Tensor, "b h w c"], threshold: float = 0.0) -> Bool[Tensor, "b h w"]:
    """Which units of a picture (patches, or groups of them) equal what the units before them predict.

    Predictive coding of pictures by units instead of pixels (PixelPrune, arXiv 2604.00886, whose idea it is to leave
    these out before the vision tower). A unit is predicted from the one to its left, the one above, and the one between
    those. If the latter two are equal, nothing changes along the row, and the left one is the prediction. If the left
    one equals the one between, nothing changes along the column, and the upper one is. Otherwise it is the left one. In
    the first row it is the left one, in the first column the upper one; the first unit has no prediction.

    Predictions are made from what a decoder would have: a unit that is left out stands for its prediction. So the other
    units, together with which are left out, determine the picture: every number to within ``threshold``, and at 0
    exactly.

    Args:
        units: numbers of each unit.
        threshold: largest difference of a number from its prediction.
    """
    b, h, w, _ = units.shape
    known = units.flatten(1, 2).clone()  # what a decoder has
    found = torch.zeros(b, h * w, dtype=torch.long, device=units.device)
    for i in range(1, h + w - 1):  # units of a diagonal do not depend on each other
        row = torch.arange(max(0, i - w + 1), min(h, i + 1), device=units.device)
        column = i - row
        place, before, over = row * w + column, (column - 1).clamp(min=0), (row - 1).clamp(min=0)
        own, left, above, between = (
            known[:, x] for x in (place, row * w + before, over * w + column, over * w + before)
        )
        upward = (row > 0) & ((column == 0) | (_near(left, between, 0.0) & ~_near(above, between, 0.0)))
        guess = torch.where(upward[..., None], above, left)
        same = _near(own, guess, threshold)
        found.index_copy_(1, place, same.long())
        known.index_copy_(1, place, torch.where(same[..., None], guess, own))
    return found.view(b, h, w) > 0


def _near(x: Float[Tensor, "b k c"], y: Float[Tensor, "b k c"], threshold: float) -> Bool[Tensor, "b k"]:
    """Whether all numbers of two units differ by no more than that."""
    if not threshold:
        return (x == y).all(-1)
    return (x.float() - y.float()).abs().amax(-1) <= threshold
