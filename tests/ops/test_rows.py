"""Gathering rows, and masks of rows, against a few-line reference."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from sparsesight import ops

from .batches import normal, seeds

# -- gathering ---------------------------------------------------------------------------------------------------


@seeds
def test_take(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for shape in ((3, 5), (3, 5, 2), (3, 5, 2, 4)):
        x = normal(seed, *shape)
        index = torch.from_numpy(rng.integers(0, 5, (3, 7)))
        expected = np.stack([x[i].numpy()[index[i].numpy()] for i in range(3)])
        np.testing.assert_array_equal(ops.gather_rows(x, index).numpy(), expected)


@pytest.mark.parametrize("contiguous", [True, False])
def test_many_rows_are_taken_as_few_are(contiguous: bool) -> None:
    """On a CPU long rows are copied whole: the same numbers, and the same gradient, repeated rows included."""
    x = normal(0, 3, 40, 1024) if contiguous else normal(0, 40, 3, 1024).transpose(0, 1)
    index = torch.randint(40, (3, 30), generator=torch.Generator().manual_seed(1))
    assert index.numel() * x.shape[2] > 2**16 and x.is_contiguous() == contiguous
    weight = normal(2, 3, 30, 1024)
    whole, one = x.clone().requires_grad_(), x.clone().requires_grad_()
    taken = ops.gather_rows(whole, index)
    expected = one.gather(1, index[..., None].expand(-1, -1, 1024))
    assert torch.equal(taken, expected)
    (taken * weight).sum().backward()
    (expected * weight).sum().backward()
    assert whole.grad is not None and one.grad is not None
    torch.testing.assert_close(whole.grad, one.grad)


@seeds
@pytest.mark.parametrize("ordered", [False, True])
def test_compact(seed: int, ordered: bool) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((6, 50)) < 0.4  # wide enough for an unstable sort to show
    mask[0], mask[1] = False, True
    order = rng.integers(0, 5, mask.shape)  # few values: ties stay in their order
    length = int(mask.sum(1).max())
    index, valid = ops.compact(torch.from_numpy(mask), length, torch.from_numpy(order) if ordered else None)
    assert index.shape == valid.shape == (6, length)
    assert index.min() >= 0 and index.max() < 50
    for i in range(6):
        expected = np.flatnonzero(mask[i])
        if ordered:
            expected = expected[np.argsort(order[i, expected], kind="stable")]
        assert valid[i].tolist() == [False] * (length - len(expected)) + [True] * len(expected)
        assert index[i, length - len(expected) :].tolist() == expected.tolist()


def test_compact_to_nothing() -> None:
    index, valid = ops.compact(torch.zeros(2, 3, dtype=torch.bool), 0)
    assert index.shape == valid.shape == (2, 0)


@seeds
@pytest.mark.parametrize("padded", [False, True])
def test_causal_rows(seed: int, padded: bool) -> None:
    rng = np.random.default_rng(seed)
    row, valid, offset = rng.integers(0, 6, (3, 4)), rng.random((3, 9)) < 0.6, 3
    seen = ops.causal_rows(torch.from_numpy(row), 9, offset, torch.from_numpy(valid) if padded else None)
    assert seen.shape == (3, 1, 4, 9)
    for b, r, k in itertools.product(range(3), range(4), range(9)):
        expected = k <= row[b, r] + offset and (valid[b, k] or not padded)
        assert bool(seen[b, 0, r, k]) == expected
