"""Bounds of distances hold, in both precisions, and what they leave out changes nothing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sparsesight import ops
from sparsesight.ops.bounds import DistanceBounds, loneliest
from sparsesight.ops.points import TokenPoints

from .batches import normal, true


def vectors(kind: str, seed: int, n: int, width: int) -> Tensor:
    x = normal(seed, n, width)
    if kind == "alike":
        return normal(seed + 9, 1 + n // 6, width).repeat_interleave(6, 0)[:n] + 0.05 * x
    if kind == "equal":
        return torch.where((torch.arange(n) % 3 == 0)[:, None], x[:1], x)
    if kind == "zeros":
        return torch.where((torch.arange(n) % 4 == 0)[:, None], 0, 1e4 * x)
    return x


KINDS = ("random", "alike", "equal", "zeros")
DTYPES = (torch.bfloat16, torch.float32)


@pytest.mark.parametrize("width", [2, 96, 1024])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_bounds_hold(kind: str, dtype: torch.dtype, width: int) -> None:
    """A distance is at most its bound, and at least that minus the widths of the two tokens' roundings."""
    x = vectors(kind, 3, 90, width)
    points, bounds, every = TokenPoints(x), DistanceBounds(x, dtype), torch.arange(90)
    exact = points.squared(points.some(every), points.some(every))
    upper = bounds.upper(every).double()
    assert (exact <= upper).all() and (exact >= upper - bounds.width[:, None]).all()
    torch.testing.assert_close(bounds.upper(every[3:5], every[7:9]), bounds.upper(every)[3:5, 7:9])


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 150, 400])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_loneliest_is_the_first_with_the_farthest_neighbour(
    kind: str, dtype: torch.dtype, n: int
) -> None:
    x = vectors(kind, n, n, 40)
    points, every = TokenPoints(x), torch.arange(n)
    squared = points.squared(points.some(every), points.some(every))
    nearest = squared.fill_diagonal_(math.inf).amin(1)
    assert loneliest(points, DistanceBounds(x, dtype)) == int(nearest.argmax())


@pytest.mark.parametrize("dtype", DTYPES)
def test_neighbours_give_bounds(dtype: torch.dtype) -> None:
    x = vectors("alike", 1, 150, 40)
    bounds, every = DistanceBounds(x, dtype), torch.arange(150)
    nearest = bounds.upper(every).fill_diagonal_(math.inf).amin(1)
    near = bounds.from_neighbours()
    assert (near >= nearest - 1e-5).all() and near.isfinite().all()
    assert (
        near <= nearest + 1e-5
    ).float().mean() > 0.5  # most tokens have their nearest neighbour beside them


@pytest.mark.parametrize("kind", KINDS)
def test_the_selection_is_the_same_without_the_rest(kind: str) -> None:
    """On the lazy path and on the plain one; what is not selected shares a place, or follows by quality."""
    x = torch.stack([vectors(kind, seed, 300, 32) for seed in (1, 2)])
    valid, keep = torch.arange(300) >= torch.tensor([[0], [37]]), torch.tensor([90, 20])
    quality = x[..., 0].abs().clamp(max=2)
    favor = quality.exp()
    rules = {
        "farthest": lambda rest: ops.farthest_point_ranks(x, valid, keep, 90, rest=rest),
        "dpp": lambda rest: ops.greedy_dpp_map(x, quality, valid, keep, 90, rest=rest),
        "gaussian": lambda rest: ops.greedy_gaussian_map(x, valid, keep, 90, favor, [45, 10], rest=rest),
    }
    for name, rule in rules.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ops.diversity, "reads_are_free", lambda x: False)
            plain, bare = rule(True), rule(False)
        lazy = rule(False)
        for places in (rule(True), bare, lazy):
            kept = places < keep[:, None]
            assert torch.equal(torch.where(kept, places, 300), torch.where(kept, plain, 300)), name
        assert torch.equal(lazy[valid], bare[valid])
        if name == "farthest":
            assert (lazy[~(lazy < keep[:, None])] == keep.repeat_interleave(300 - keep)).all()


def test_padding_is_not_needed_for_rows() -> None:
    """Tokens of a sample made one by one are those of the whole batch."""
    x = normal(4, 2, 70, 48)
    for bits in (ops.points.FINE, ops.points.COARSE):
        whole = ops.points.fixed_points(x, true(2, 70), bits)
        points, some = TokenPoints(x[1], bits), torch.tensor([69, 3, 3, 40])
        assert torch.equal(points.some(some).x, whole.x[1, some])
        assert torch.equal(points.run(30, 45).x, whole.x[1, 30:45])
        assert torch.equal(points.some(some).norm, whole.norm[1, some])
