"""Unit vectors whose squared distances need no rounding, so that they do not depend on batch, block or device."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from .rows import gather_rows

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

FINE, COARSE = 25, 11  # bits of a coordinate whose products fp64 and fp32 add up without rounding


def unit_vectors(x: Float[Tensor, "b v c"], valid: Bool[Tensor, "b v"]) -> Float[Tensor, "b v c"]:
    """Rows of unit length in fp32; padding is zero."""
    return torch.nn.functional.normalize(x.float().masked_fill(~valid[..., None], 0), dim=-1)


class Points(NamedTuple):
    """Vectors of whole numbers, and what their squared distances are multiplied by to be those of unit vectors."""

    x: Float[Tensor, "b v c"]
    norm: Float[Tensor, "b v"]  # squared
    scale: float

    def from_tokens(self, pick: Int[Tensor, "b m"]) -> Float[Tensor, "b m v"]:
        """Squared distances of some tokens to all."""
        product = gather_rows(self.x, pick) @ self.x.transpose(1, 2)
        return (self.norm.gather(1, pick)[..., None] + self.norm[:, None] - 2 * product) * self.scale

    def from_next(self, sample: int, column: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Squared distance of each of the tokens ``column`` of a sample to the nearer one of its neighbours in it."""
        x, norm = self.x[sample, column], self.norm[sample, column]
        squared = (norm[1:] + norm[:-1] - 2 * (x[1:] * x[:-1]).sum(1)) * self.scale
        before, after = (torch.nn.functional.pad(squared, side, value=math.inf) for side in ((1, 0), (0, 1)))
        return torch.minimum(before, after)

    def of(self, sample: int, column: Int[Tensor, " n"]) -> Callable[[Tensor, Tensor], Tensor]:
        """Squared distances between two sets of the tokens ``column`` of a sample."""
        x, norm = self.x[sample], self.norm[sample]
        if len(column) < len(x):
            x, norm = x[column], norm[column]

        def squared(a: Tensor, b: Tensor) -> Tensor:
            whole = len(b) == len(x)
            product = x[a] @ (x if whole else x[b]).T
            return product.mul_(-2).add_(norm[a, None]).add_(norm if whole else norm[b]).mul_(self.scale)

        return squared


def fixed_points(x: Float[Tensor, "b v c"], valid: Bool[Tensor, "b v"], bits: int = FINE) -> Points:
    """Unit vectors rounded to multiples of ``2 ** -bits``, so that sums of their products are exact in any order.

    ``FINE`` needs fp64 and is as precise as fp32. ``COARSE`` fits fp32, which is twice as fast; it moves a cosine by
    about 0.0002, as much as features in bf16 are uncertain.
    """
    dtype = torch.float64 if bits > COARSE or x.device.type != "cpu" else torch.float32
    points = unit_vectors(x, valid).nan_to_num_().to(dtype).mul_(2.0**bits).round_()
    return Points(points, torch.linalg.vecdot(points, points), 4.0**-bits)
