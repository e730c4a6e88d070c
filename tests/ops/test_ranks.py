"""Ranks, and the rank of an attention matrix, against a few-line reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sparsesight import ops

from .batches import LAYOUTS, double, dtypes, layouts, normal, own, pad, poisons, seeds, true


def places(score: list[float]) -> list[int]:
    """Best first; a tie to the earlier one, NaN as low as it gets."""
    keys = [-math.inf if math.isnan(s) else s for s in score]
    order = sorted(range(len(score)), key=lambda i: (-keys[i], i))
    return [order.index(i) for i in range(len(score))]


@seeds
@dtypes
def test_ranks(seed: int, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(seed)
    score = torch.from_numpy(rng.integers(-3, 4, (5, 40))).to(dtype)  # seven values: mostly ties
    score[0, ::3], score[1, 5], score[2, 7], score[3] = math.nan, -math.inf, math.inf, 0
    actual = ops.ranks(score, true(5, 40))
    assert actual.tolist() == [places(x) for x in score.tolist()]


@layouts
@poisons
@seeds
def test_ranks_in_a_batch(layout: str, poison: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    samples = [torch.from_numpy(rng.integers(0, 4, n)).float() for n in (5, 12, 1, 30)]
    samples.append(torch.tensor([-math.inf, 0.0, math.nan]))  # still ahead of padding
    actual = ops.ranks(pad(samples, 33, layout, poison), own([len(x) for x in samples], 33, layout))
    for row, x in zip(actual, samples, strict=True):
        assert sorted(row.tolist()) == list(range(33))
        assert row[LAYOUTS[layout](len(x), 33)].tolist() == places(x.tolist())


@seeds
def test_first_ranked(seed: int) -> None:
    rng = np.random.default_rng(seed)
    place = torch.from_numpy(np.stack([rng.permutation(9) for _ in range(4)])) - 3  # behind the kept ones
    valid = place >= 0
    valid[3, ::2] = False
    count = torch.minimum(torch.tensor([4, 0, 2, 5]), valid.sum(1))
    index, chosen = ops.first_ranked(place, valid, count, 5)
    assert index.shape == chosen.shape == (4, 5)
    for i in range(4):
        best = sorted((j for j in range(9) if valid[i, j]), key=lambda j: int(place[i, j]))
        assert chosen[i].tolist() == [j < count[i] for j in range(5)]
        assert index[i][chosen[i]].tolist() == best[: int(count[i])]


@seeds
def test_attention_rank_of_low_rank_matrices(seed: int) -> None:
    """Products of small integers have exactly the rank they were built with."""
    rng = np.random.default_rng(seed)
    for r, v, rank in ((4, 9, 2), (9, 4, 3), (6, 6, 6), (5, 30, 0), (1, 8, 1)):
        left, right = rng.integers(-9, 9, (r, max(rank, 1))), rng.integers(-9, 9, (max(rank, 1), v))
        matrix = torch.from_numpy(left @ right * (rank > 0)).float()
        assert np.linalg.matrix_rank(matrix.numpy()) == rank
        assert ops.attention_rank(matrix[None], true(1, r), true(1, v)).tolist() == [rank]


def test_attention_rank_near_the_threshold() -> None:
    """Singular values so close to it, on both sides, that fp32 would miscount them."""
    bound = 12 * torch.finfo(torch.float32).eps
    sigma = np.array([1, 0.5, 1.02 * bound, 1.01 * bound, 0.99 * bound, 0.98 * bound])
    for seed in range(20):
        rng = np.random.default_rng(seed)
        left, right = (np.linalg.qr(rng.standard_normal((n, 6)))[0] for n in (8, 12))
        matrix = torch.from_numpy(left * sigma @ right.T).float()
        expected = int((np.linalg.svd(double(matrix), compute_uv=False) > bound).sum())
        for samples in ([matrix], [matrix, normal(seed, 30, 12)]):
            wide = pad(samples, max(len(x) for x in samples), "left", 0.0)
            rater = own([len(x) for x in samples], wide.shape[1], "left")
            assert ops.attention_rank(wide, rater, true(len(samples), 12))[0] == expected


@layouts
@poisons
def test_attention_rank_in_a_batch(layout: str, poison: float) -> None:
    """The threshold follows a sample's own size: a singular value beside it stays on its side in any padding."""
    bound = 8 * torch.finfo(torch.float32).eps
    edge = torch.diag(torch.tensor([1, 1.02 * bound, 0.98 * bound, 0, 0, 0, 0, 0]))
    low = normal(0, 3, 2) @ normal(1, 2, 11)
    samples = [edge, edge[:3], low, torch.ones(1, 1)]
    alone = [ops.attention_rank(x[None], true(1, len(x)), true(1, x.shape[1])).item() for x in samples]
    assert alone == [2, 2, 2, 1]
    columns = [pad([x], 40, layout, poison, 1)[0] for x in samples]
    rank = ops.attention_rank(
        pad(columns, 20, layout, poison),
        own([len(x) for x in samples], 20, layout),
        own([x.shape[1] for x in samples], 40, layout),
    )
    assert rank.tolist() == alone


@pytest.mark.parametrize(
    ("rank", "visual", "scale", "bias", "expected"),
    [
        (10, 576, 13.5, 0.0, 135),  # int(rank * scale + bias)
        (11, 576, 13.5, 0.0, 148),  # 148.5, cut off
        (10, 576, 9.0, 6.0, 96),
        (7, 576, 0.8, 0.0, 5),
        (1, 576, 0.8, 0.0, 0),  # zero is possible
        (50, 576, 13.5, 0.0, 575),  # at least one is dropped ...
        (20, 20, 0.1, 0.0, 20),  # ... but a full rank keeps all
        (19, 20, 1.0, 0.0, 19),
        (19, 20, 1.0, 5.0, 19),
        (3, 20, 1.0, -9.0, 0),
        (0, 0, 13.5, 6.0, 0),
        (0, 5, 13.5, 0.5, 0),
    ],
)
def test_rank_rule(rank: int, visual: int, scale: float, bias: float, expected: int) -> None:
    keep = ops.rank_rule(torch.tensor([rank]), torch.tensor([visual]), scale, bias)
    assert keep.tolist() == [expected]


@pytest.mark.parametrize(("scale", "bias"), [(13.5, 0.0), (9.0, 6.0), (0.8, 0.0), (0.57, 0.0)])
def test_rank_rule_rounds_as_python_does(scale: float, bias: float) -> None:
    rank = torch.arange(300)
    keep = ops.rank_rule(rank, torch.full_like(rank, 10_000), scale, bias)
    assert keep.tolist() == [int(r * scale + bias) for r in range(300)]
