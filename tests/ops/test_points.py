"""Points on a fixed grid, whose products are exact."""

from __future__ import annotations

import pytest
import torch

from sparsesight import ops

from .batches import normal, true


@pytest.mark.parametrize("bits", [ops.points.FINE, ops.points.COARSE])
def test_products_of_fixed_points_are_exact(bits: int) -> None:
    """In any order of the sum, so equal to sums of whole numbers, at any width."""
    x = normal(1, 1, 8, 4096)
    points = ops.points.fixed_points(x, true(1, 8), bits)
    whole = [[int(v) for v in row] for row in points.x[0].tolist()]
    expected = [[sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) for b in whole] for a in whole]
    every = torch.arange(8)
    lazy = ops.points.TokenPoints(x[0], bits)
    assert (lazy.squared(lazy.some(every), lazy.run(0, 8)) / points.scale).long().tolist() == expected
    assert (points.from_tokens(every[None])[0] / points.scale).long().tolist() == expected
