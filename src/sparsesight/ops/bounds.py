"""Bounds of the distances of one sample's tokens from a fast, rough product, and what they leave to compute exactly."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .points import MADE_AT_ONCE, TokenPoints
from .rows import host_values

if TYPE_CHECKING:
    from jaxtyping import Float, Int

BLOCK = 128  # tokens that are compared with all others at once
NEIGHBOURS = 64  # tokens in a row that are compared with each other first: in pictures, many are alike


def rough_dtype() -> torch.dtype:
    """bf16 if the processor multiplies it, which is several times as fast as fp32."""
    known = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return torch.bfloat16 if known() else torch.float32


class DistanceBounds:
    """Upper bounds of the squared distances of :class:`TokenPoints`, of which ``x`` are the vectors.

    The rough product of two vectors is wrong by at most the lengths of what rounding takes away from each (they are
    computed), by ``2**-8`` of itself if it is rounded to bf16, and by what the sum loses in fp32.
    """

    def __init__(self, x: Float[Tensor, "n c"], dtype: torch.dtype | None = None) -> None:
        dtype = rough_dtype() if dtype is None else dtype
        self._x = x.new_empty(x.shape, dtype=dtype)
        self._norm, self._lost = (x.new_empty(len(x), dtype=torch.float32) for _ in range(2))
        for start in range(0, len(x), MADE_AT_ONCE):
            part = slice(start, start + MADE_AT_ONCE)
            unit = torch.nn.functional.normalize(x[part].float(), dim=-1).nan_to_num_()
            self._x[part] = unit
            self._norm[part] = torch.linalg.vecdot(unit, unit)
            self._lost[part] = torch.linalg.vector_norm(unit - self._x[part].float(), dim=-1)
        self._lost.mul_(2.02)  # of a distance; 1 % for the roundings of this computation
        self._rounding = 1.01 * 2.0**-7 if dtype == torch.bfloat16 else 0.0
        self._sum = (
            x.shape[1] + 16
        ) * 2.0**-21  # of the sum in fp32, four times over, and of the fixed points
        most = float(host_values(self._lost.amax()[None])[0]) if len(x) else 0.0
        # An upper bound is above the distance by at most this much; a product is at most 1.
        self.width = (self._lost + (most + self._sum + self._rounding * 1.01)) * 2

    def __len__(self) -> int:
        return len(self._x)

    def upper(self, a: Int[Tensor, " p"], b: Int[Tensor, " m"] | None = None) -> Float[Tensor, "p m"]:
        """Bounds for the tokens ``a`` and ``b``, or all."""
        x, norm, lost = self._x, self._norm, self._lost
        own = (norm + lost)[a] + self._sum
        if b is not None:
            x, norm, lost = x.index_select(0, b), norm[b], lost[b]
        return self._bound(self._x.index_select(0, a) @ x.T, own[:, None], norm + lost)

    def _bound(self, product: Tensor, own: Tensor, other: Tensor) -> Tensor:
        product = product.float()
        bound = product.mul(-2)
        if self._rounding:
            bound.add_(product.abs_(), alpha=self._rounding)
        return bound.add_(own).add_(other)

    def from_neighbours(self) -> Float[Tensor, " n"]:
        """A bound of every token's distance to its nearest neighbour, from those around it."""
        n = len(self)
        nearest = self._norm.new_full((n,), math.inf)
        whole = n // NEIGHBOURS
        start = max(n - NEIGHBOURS, 0)
        runs = [(0, whole, NEIGHBOURS)] if whole else []
        for first, count, size in [*runs, (start, 1, n - start)]:
            part = slice(first, first + count * size)
            x = self._x[part].view(count, size, -1)
            side = (self._norm + self._lost)[part].view(count, size)
            bound = self._bound(x @ x.transpose(1, 2), side[..., None] + self._sum, side[:, None])
            bound.diagonal(dim1=1, dim2=2).fill_(math.inf)
            nearest[part] = torch.minimum(nearest[part], bound.amin(1).flatten())
        return nearest


def loneliest(points: TokenPoints, bounds: DistanceBounds) -> int:
    """The token whose nearest neighbour is farthest, the earlier one of equals.

    Tokens are compared with all others a block at a time, beginning with those that seem loneliest, until the others
    have a neighbour that is nearer than the best one's. What the bounds leave open is computed exactly.
    """
    nearest, known = bounds.from_neighbours(), torch.zeros(len(points), dtype=torch.bool)
    left, enough = torch.arange(len(points)), -math.inf
    while True:
        seeming = nearest.masked_fill(known, -math.inf)
        column = seeming.argsort(descending=True, stable=True)[:BLOCK]
        count = sum(value >= enough and value > -math.inf for value in host_values(seeming[column]))
        if not count:
            break
        column = column[:count]
        if 2 * int(host_values(known.sum()[None])[0]) > len(left):  # a pair is compared once
            left = known.to(torch.uint8).argsort(stable=True)[
                : len(known) - int(host_values(known.sum()[None])[0])
            ]
        pairs = bounds.upper(column, left).masked_fill_(column[:, None] == left, math.inf)
        nearest[left] = torch.minimum(nearest[left], pairs.amin(0))
        nearest[column] = torch.minimum(nearest[column], pairs.amin(1))
        known[column] = True
        enough = max(enough, *host_values((nearest - bounds.width)[column]))
    return _exactly(points, bounds, nearest.masked_fill(~known, -math.inf), enough)


def _exactly(points: TokenPoints, bounds: DistanceBounds, nearest: Tensor, enough: float) -> int:
    """The loneliest of the tokens whose bounds are at least ``enough``."""
    order = nearest.argsort(descending=True, stable=True)
    limit = [value for value in host_values(nearest[order]) if value >= enough]
    best, found = -math.inf, 0
    for start in range(0, len(limit), BLOCK // 4):
        if limit[start] < best:
            break
        column = order[start : min(start + BLOCK // 4, len(limit))]
        rough = bounds.upper(column).masked_fill_(column[:, None] == torch.arange(len(points)), math.inf)
        near = rough - (bounds.width + nearest[column, None])
        other = [i for i, gap in enumerate(host_values(near.amin(0))) if gap <= 0]
        if not other:  # a single token
            return int(host_values(column[:1])[0])
        at = torch.tensor(other)
        squared = points.squared(points.some(column), points.some(at))
        squared.masked_fill_(column[:, None] == at, math.inf)
        for value, i in zip(host_values(squared.amin(1)), map(int, host_values(column)), strict=True):
            if value > best or (value == best and i < found):
                best, found = value, i
    return found
