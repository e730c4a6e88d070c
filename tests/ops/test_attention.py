"""Attention of chosen rows against a few-line reference, and a sample in a batch against the same sample alone."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sparsesight import ops

from .batches import (
    LAYOUTS,
    close,
    double,
    dtypes,
    layouts,
    normal,
    own,
    pad,
    poisons,
    random_mask,
    seeds,
    softmax,
    true,
)


def attention(
    query: Tensor, key: Tensor, mask: Tensor | None, scale: float, softcap: float | None = None
) -> np.ndarray:
    """One [rows, keys] softmax per head, written out."""
    (b, h, r, _), (g, k) = query.shape, key.shape[1:3]
    out = np.zeros((b, h, r, k))
    for i, head in itertools.product(range(b), range(h)):
        logits = double(query[i, head]) @ double(key[i, head // (h // g)]).T * scale
        if softcap is not None:
            logits = softcap * np.tanh(logits / softcap)
        if mask is not None:
            part = mask.expand(b, h, r, k)[i, head]
            logits = np.where(part, logits, -np.inf) if mask.dtype == torch.bool else logits + double(part)
        out[i, head] = softmax(logits)
    return out


def masks(seed: int, b: int, h: int, r: int, k: int) -> dict[str, Tensor | None]:
    """Every form a model's mask takes."""
    seen = random_mask(seed, b, 1, r, k)
    lowest = torch.zeros(b, 1, r, k).masked_fill(~seen, torch.finfo(torch.float32).min)
    return {
        "none": None,
        "boolean": seen,
        "per head": random_mask(seed, b, h, r, k),
        "one row": random_mask(seed, b, 1, 1, k),
        "one sample": random_mask(seed, 1, 1, r, k),
        "additive": lowest,
        "additive bf16": torch.zeros(b, 1, r, k)
        .masked_fill(~seen, torch.finfo(torch.bfloat16).min)
        .bfloat16(),
        "bias": normal(seed + 1, 1, h, r, k).masked_fill(~seen, -math.inf),
    }


@seeds
@dtypes
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_attention_rows(seed: int, dtype: torch.dtype, groups: int) -> None:
    query, key = normal(seed, 2, 4, 5, 8, dtype=dtype), normal(seed + 50, 2, groups, 9, 8, dtype=dtype)
    for mask in masks(seed, 2, 4, 5, 9).values():
        for softcap in (None, 1.5):
            actual = ops.attention_rows(query, key, mask, 0.4, softcap)
            assert actual.dtype == torch.float32
            close(actual, attention(query, key, mask, 0.4, softcap))


@seeds
def test_attention_rows_is_that_of_torch(seed: int) -> None:
    """With the identity for values, attention returns its own weights."""
    query, key = normal(seed, 2, 4, 5, 8), normal(seed + 50, 2, 2, 9, 8)
    for mask in masks(seed, 2, 4, 5, 9).values():
        mask = None if mask is None else mask if mask.dtype == torch.bool else mask.float()
        expected = torch.nn.functional.scaled_dot_product_attention(
            query, key, torch.eye(9).expand(2, 2, 9, 9), mask, scale=0.4, enable_gqa=True
        )
        close(ops.attention_rows(query, key, mask, 0.4), expected)


def test_attention_rows_that_see_nothing_stay_finite() -> None:
    mask = torch.zeros(1, 1, 3, 4, dtype=torch.bool)
    assert ops.attention_rows(normal(0, 1, 2, 3, 8), normal(1, 1, 2, 4, 8), mask, 1.0).isfinite().all()


@seeds
def test_head_sums_and_means(seed: int) -> None:
    query, key = normal(seed, 2, 4, 7, 8), normal(seed + 50, 2, 2, 9, 8)
    rater = normal(seed, 2, 7) > 0
    divisor = normal(seed, 2, 7, 9).abs() + 0.1
    for mask in masks(seed, 2, 4, 7, 9).values():
        full = attention(query, key, mask, 0.4, 2.0)
        close(ops.head_mean(query, key, mask, 0.4, 2.0), full.mean(1))
        counted = full * rater[:, None, :, None].numpy()
        close(ops.head_sums(query, key, mask, rater, 0.4, 2.0), counted.sum(2))
        divided = (counted / double(divisor)[:, None]).sum(2)
        close(ops.head_sums(query, key, mask, rater, 0.4, 2.0, divisor), divided, 1e-5)


@pytest.mark.parametrize("chunk", [1, 3, 6, 7, 8])
def test_chunks_of_rows_do_not_show(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, rater = normal(0, 2, 4, 7, 8), normal(1, 2, 2, 9, 8), normal(2, 2, 7) > 0
    divisor = normal(3, 2, 7, 9).abs() + 0.1
    for mask in masks(0, 2, 4, 7, 9).values():
        sums = ops.head_sums(query, key, mask, rater, 0.4, None, divisor)
        mean = ops.head_mean(query, key, mask, 0.4)
        with monkeypatch.context() as patch:
            patch.setattr(ops.rows, "ROW_CHUNK", chunk)
            close(ops.head_sums(query, key, mask, rater, 0.4, None, divisor), sums)
            close(ops.head_mean(query, key, mask, 0.4), mean)


def test_scores_never_hold_all_rows_at_once() -> None:
    """A long question costs memory for ROW_CHUNK rows."""
    rows = 3 * ops.rows.ROW_CHUNK + 1
    query, key, rater = normal(0, 1, 2, rows, 4), normal(1, 1, 1, 5, 4), true(1, rows)

    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor) and out.shape[-1] == 5:
                self.numel = max(self.numel, out.numel())
            return out

    with Largest() as largest:
        ops.head_sums(query, key, None, rater, 1.0)
    assert 0 < largest.numel <= 2 * ops.rows.ROW_CHUNK * 5


@layouts
@poisons
def test_attention_in_a_batch(layout: str, poison: float) -> None:
    """Padded rows and padded keys; masks are boolean, the one form that can hide what a padded key holds."""
    sizes, r_width, k_width = ((3, 6), (5, 4), (1, 9)), 6, 10
    query = [normal(i, 4, r, 8) for i, (r, _) in enumerate(sizes)]
    key = [normal(10 + i, 2, k, 8) for i, (_, k) in enumerate(sizes)]
    seen = [random_mask(i, 1, r, k) for i, (r, k) in enumerate(sizes)]
    rater = [normal(30 + i, r) > -1 for i, (r, _) in enumerate(sizes)]
    divisor = [normal(40 + i, r, k).abs() + 0.1 for i, (r, k) in enumerate(sizes)]

    wide = [pad([m], k_width, layout, False, axis=2)[0] for m in seen]
    mask = pad(wide, r_width, layout, False, axis=1)
    columns = [pad([x], k_width, layout, poison, axis=1)[0] for x in divisor]
    queries, keys = pad(query, r_width, layout, poison, 1), pad(key, k_width, layout, poison, 1)
    raters = pad(rater, r_width, layout, False)
    weights = pad(columns, r_width, layout, poison)

    rows = ops.attention_rows(queries, keys, mask, 0.4)
    mean = ops.head_mean(queries, keys, mask, 0.4)
    sums = ops.head_sums(queries, keys, mask, raters, 0.4)
    divided = ops.head_sums(queries, keys, mask, raters, 0.4, None, weights)
    for i, (r, k) in enumerate(sizes):
        at_r, at_k = LAYOUTS[layout](r, r_width), LAYOUTS[layout](k, k_width)
        alone = (query[i][None], key[i][None], seen[i][None])
        close(rows[i][:, at_r][..., at_k], ops.attention_rows(*alone, 0.4)[0])
        close(mean[i][at_r][:, at_k], ops.head_mean(*alone, 0.4)[0])
        close(sums[i][:, at_k], ops.head_sums(*alone, rater[i][None], 0.4)[0])
        expected = ops.head_sums(*alone, rater[i][None], 0.4, None, divisor[i][None])[0]
        close(divided[i][:, at_k], expected, 1e-5)
        padding = [x for x in range(k_width) if x not in at_k]
        assert not rows[i][:, at_r][..., padding].any() and not sums[i][:, padding].any()


@seeds
def test_select_heads(seed: int) -> None:
    received, visual = normal(seed, 3, 6, 9), normal(seed + 1, 3, 9) > -1
    heads, score = ops.select_heads(received, visual, 4)
    for i in range(3):
        x = np.where(visual[i].numpy(), double(received[i]), 0)
        expected = np.argsort(-x.sum(1), kind="stable")[:4]
        assert heads[i].tolist() == expected.tolist()
        close(score[i], x[expected].mean(0))


def test_select_heads_ties_go_to_the_lower_head() -> None:
    received = normal(0, 1, 1, 9).expand(2, 64, 9).clone()
    received[:, 40] += 1
    heads, _ = ops.select_heads(received, true(2, 9), 20)
    assert heads.tolist() == [[40, *range(19)]] * 2


@layouts
@poisons
@seeds
def test_select_heads_in_a_batch(layout: str, poison: float, seed: int) -> None:
    samples = [normal(10 * seed + n, 6, n) for n in (4, 9, 1)]
    heads, score = ops.select_heads(pad(samples, 10, layout, poison, 1), own((4, 9, 1), 10, layout), 3)
    for i, x in enumerate(samples):
        alone_heads, alone = ops.select_heads(x[None], true(1, x.shape[1]), 3)
        assert heads[i].tolist() == alone_heads[0].tolist()
        close(score[i][LAYOUTS[layout](x.shape[1], 10)], alone[0])
