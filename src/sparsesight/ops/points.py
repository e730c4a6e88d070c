"""Unit vectors whose squared distances need no rounding, so that they do not depend on batch, block or device."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from .rows import gather_rows, host_values

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

FINE, COARSE = 25, 11  # bits of a coordinate whose products fp64 and fp32 add up without rounding
MADE_AT_ONCE = 256  # rows: what is made of them stays in the processor's cache


def unit_vectors(x: Float[Tensor, "b v c"], valid: Bool[Tensor, "b v"]) -> Float[Tensor, "b v c"]:
    """Rows of unit length in fp32; padding is zero."""
    return torch.nn.functional.normalize(x.float(), dim=-1).masked_fill_(~valid[..., None], 0)


class Points(NamedTuple):
    """Vectors of whole numbers, and what their squared distances are multiplied by to be those of unit vectors."""

    x: Float[Tensor, "b v c"]
    norm: Float[Tensor, "b v"]  # squared
    scale: float

    def from_tokens(self, pick: Int[Tensor, "b m"]) -> Float[Tensor, "b m v"]:
        """Squared distances of some tokens to all."""
        rows, columns = gather_rows(self.x, pick), self.x.transpose(1, 2)
        part = torch.baddbmm(self.norm[:, None], rows, columns, alpha=-2)
        return part.add_(self.norm.gather(1, pick)[..., None]).mul_(self.scale)


def fixed_points(x: Float[Tensor, "b v c"], valid: Bool[Tensor, "b v"], bits: int = FINE) -> Points:
    """Unit vectors rounded to multiples of ``2 ** -bits``, so that sums of their products are exact in any order.

    ``FINE`` needs fp64 and is as precise as fp32. ``COARSE`` fits fp32, which is twice as fast; it moves a cosine by
    about 0.0002, as much as features in bf16 are uncertain.
    """
    dtype = torch.float64 if bits > COARSE or x.device.type != "cpu" else torch.float32
    points = unit_vectors(x, valid).nan_to_num_().to(dtype).mul_(2.0**bits).round_()
    return Points(points, torch.linalg.vecdot(points, points), 4.0**-bits)


class Rows(NamedTuple):
    """Some tokens of a sample as whole numbers."""

    x: Float[Tensor, "m c"]
    norm: Float[Tensor, " m"]  # squared


class TokenPoints:
    """:func:`fixed_points` of one sample on a CPU, each made when it is first asked for.

    Args:
        x: the sample's vectors, all of them valid.
        bits: see :func:`fixed_points`.
    """

    def __init__(self, x: Float[Tensor, "n c"], bits: int = FINE) -> None:
        self._from, self._bits = x, bits
        self._rows = Rows(*(x.new_empty(shape, dtype=self.dtype) for shape in (x.shape, x.shape[:1])))
        self._made = [False] * len(x)

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64 if self._bits > COARSE else torch.float32

    def __len__(self) -> int:
        return len(self._from)

    def some(self, index: Int[Tensor, " m"]) -> Rows:
        """The tokens ``index``."""
        missing = [i for i in map(int, host_values(index)) if not self._made[i]]
        for start in range(0, len(missing), MADE_AT_ONCE):
            part = missing[start : start + MADE_AT_ONCE]
            at = torch.tensor(part)
            for made, new in zip(self._rows, self._make(self._from.index_select(0, at)), strict=True):
                made.index_copy_(0, at, new)
            for i in part:
                self._made[i] = True
        return Rows(*(made.index_select(0, index) for made in self._rows))

    def run(self, start: int, end: int) -> Rows:
        """The tokens from ``start`` to before ``end``."""
        if not all(self._made[start:end]):
            for first in range(start, end, MADE_AT_ONCE):
                part = slice(first, min(first + MADE_AT_ONCE, end))
                for made, new in zip(self._rows, self._make(self._from[part]), strict=True):
                    made[part] = new
            self._made[start:end] = [True] * (end - start)
        return Rows(*(made[start:end] for made in self._rows))

    def squared(self, a: Rows, b: Rows) -> Float[Tensor, "p m"]:
        """Squared distances, as of unit vectors."""
        product = torch.addmm(b.norm, a.x, b.x.T, alpha=-2)
        return product.add_(a.norm[:, None]).mul_(4.0**-self._bits)

    def mean_squared(self) -> Float[Tensor, " 1"]:
        """The mean squared distance of all pairs."""
        total, norm = (self._rows.x.new_zeros(1, n, dtype=torch.float64) for n in (self._from.shape[1], 1))
        for start in range(0, len(self), MADE_AT_ONCE):
            rows = self.run(start, min(start + MADE_AT_ONCE, len(self)))
            total += rows.x.sum(0)
            norm += rows.norm.sum(0, dtype=torch.float64)
        return mean_squared(total, norm[:, 0], norm.new_full((1,), len(self)), 4.0**-self._bits)

    def _make(self, x: Float[Tensor, "m c"]) -> Rows:
        unit = torch.nn.functional.normalize(x.float(), dim=-1).nan_to_num_()
        points = unit.to(self.dtype).mul_(2.0**self._bits).round_()
        return Rows(points, torch.linalg.vecdot(points, points))


def mean_squared(
    total: Float[Tensor, "b c"], norm: Float[Tensor, " b"], count: Float[Tensor, " b"], scale: float
) -> Float[Tensor, " b"]:
    """The mean squared distance of all pairs of ``count`` points, from their sum and the sum of their squared norms."""
    return 2 * (norm / count - (total / count[:, None]).square().sum(1)) * scale
