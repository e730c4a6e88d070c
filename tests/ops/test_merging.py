"""Merging by density peaks against a few-line reference, and a sample in a batch against the same sample alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sparsesight import ops

from .batches import close, double, dtypes, normal, pad, poisons, seeds


def merged(x: np.ndarray, k: int) -> tuple[list[int], list[int], np.ndarray]:
    """Density-peaks clustering, loop by loop; densities as logarithms, for inputs whose exponentials underflow."""
    m, c = x.shape
    d = [[math.sqrt(sum((x[a] - x[b]) ** 2)) / math.sqrt(c) for b in range(m)] for a in range(m)]
    density = [-sum(sorted(e**2 for e in d[a])[:k]) / k for a in range(m)]
    delta = []
    for a in range(m):
        denser = [d[a][b] for b in range(m) if density[b] > density[a]]
        delta.append(min(denser) if denser else max(max(row) for row in d))
    peak = [density[a] + math.log(delta[a]) if delta[a] else -math.inf for a in range(m)]
    centre = sorted(range(m), key=lambda a: -peak[a])[:k]
    assign = [min(range(k), key=lambda q: d[a][centre[q]]) for a in range(m)]
    for q, a in enumerate(centre):
        assign[a] = q
    tokens = [sum(x[a] for a in range(m) if assign[a] == q) / (assign.count(q) + 1e-6) for q in range(k)]
    return centre, assign, np.stack(tokens)


def check_merge(merge: ops.Merge, i: int, x: Tensor, k: int, scale: float = 1.0) -> None:
    """Sample ``i`` of a merge is what the loops make of ``x``, up to orders that the method leaves open."""
    centre, assign, tokens = merged(double(x), k)
    got = merge.centre[i, :k].tolist(), merge.assign[i, : len(x)].tolist(), merge.tokens[i, :k]
    assert merge.exists[i].tolist() == [q < k for q in range(merge.exists.shape[1])]
    assert [got[1][c] for c in got[0]] == list(range(k))
    if k == 1:  # all densities are equal: which token is the centre is arbitrary
        assert 0 <= got[0][0] < len(x) and set(got[1]) == {0}
        close(got[2], tokens, 2e-6 * scale)
        return
    if k == 2 and got[0] == centre[::-1]:  # each other's nearest: the two densest tie exactly
        got = got[0][::-1], [1 - q for q in got[1]], got[2].flip(0)
    assert got[:2] == (centre, assign)
    close(got[2], tokens, 2e-6 * scale)


@seeds
@dtypes
@pytest.mark.parametrize(("m", "k"), [(1, 1), (9, 1), (2, 2), (12, 2), (12, 3), (25, 4), (40, 9), (7, 7)])
def test_density_peaks_merge(seed: int, dtype: torch.dtype, m: int, k: int) -> None:
    x = normal(seed, m, 6, dtype=dtype)
    merge = ops.density_peaks_merge(x[None], [m], [k])
    assert merge.tokens.dtype == torch.float32
    check_merge(merge, 0, x, k)


@seeds
@pytest.mark.parametrize("scale", [30.0, 1e4])
def test_density_peaks_merge_of_large_hidden_states(seed: int, scale: float) -> None:
    """The exponentials of all densities are zero here; their order must not be."""
    x = scale * normal(seed, 30, 6)
    assert (torch.cdist(x, x) / math.sqrt(6)).square().mul(-1).exp().fill_diagonal_(0).max() == 0
    check_merge(ops.density_peaks_merge(x[None], [30], [4]), 0, x, 4, scale)


@poisons
@seeds
def test_density_peaks_merge_in_a_batch(poison: float, seed: int) -> None:
    """Ragged sizes and cluster counts, also of a sample that merges nothing."""
    sizes, clusters = [7, 23, 0, 1, 12, 12, 23], [1, 3, 0, 1, 2, 2, 3]
    samples = [normal(10 * seed + i, n, 6) for i, n in enumerate(sizes)]
    merge = ops.density_peaks_merge(pad(samples, 25, "right", poison), sizes, clusters)
    for i, (x, n, k) in enumerate(zip(samples, sizes, clusters, strict=True)):
        assert merge.exists[i].sum() == k
        if k:
            check_merge(merge, i, x, k)
            alone = ops.density_peaks_merge(x[None], [n], [k])
            assert torch.equal(merge.centre[i, :k], alone.centre[0])
            assert torch.equal(merge.assign[i, :n], alone.assign[0])
            close(merge.tokens[i, :k], alone.tokens[0], 1e-6)


def test_merged_tokens_shrink_as_published() -> None:
    """The sum over ``count + 1e-6``, not the mean."""
    x = normal(0, 1, 5, 6)
    merge = ops.density_peaks_merge(x, [5], [5])
    torch.testing.assert_close(merge.tokens, x[:, merge.centre[0]] / (1 + 1e-6), rtol=2e-7, atol=0)


def test_density_peaks_merge_of_equal_tokens() -> None:
    """All alike: centres stay distinct and keep themselves, no cluster is empty."""
    x = normal(0, 1, 6).expand(9, 6)
    merge = ops.density_peaks_merge(x[None], [9], [3])
    centre = merge.centre[0].tolist()
    assert len(set(centre)) == 3 and merge.assign[0, centre].tolist() == [0, 1, 2]
    close(merge.tokens[0], x[:3], 1e-5)


@seeds
def test_density_peaks_merge_with_duplicates(seed: int) -> None:
    half = normal(seed, 6, 5)
    x = torch.cat((half, half))
    merge = ops.density_peaks_merge(x[None], [12], [4])
    centre, assign = merge.centre[0].tolist(), merge.assign[0].tolist()
    assert len(set(centre)) == 4 and [assign[c] for c in centre] == [0, 1, 2, 3]
    distance = torch.cdist(x, x[centre])
    for a in range(12):
        if a not in centre:
            assert assign[a] == min(range(4), key=lambda q: float(distance[a, q]))
    for q in range(4):
        members = x[[a for a in range(12) if assign[a] == q]]
        close(merge.tokens[0, q], members.sum(0) / (len(members) + 1e-6))


def test_gradients_flow_through_merged_tokens() -> None:
    x = normal(0, 2, 9, 4).requires_grad_()
    merge = ops.density_peaks_merge(x, [9, 6], [2, 3])
    weight = normal(1, 2, 3, 4)
    (merge.tokens * weight).sum().backward()
    assert x.grad is not None
    for i, n in enumerate((9, 6)):
        counts = merge.assign[i, :n].bincount().float()
        q = merge.assign[i, :n]
        close(x.grad[i, :n], weight[i][q] / (counts[q] + 1e-6)[:, None])
    assert not x.grad[1, 6:].any()
