"""Every tensor function against a few-line reference, and a sample in a batch against the same sample alone.

Batches are padded on the left, on the right or in the middle, and the padding is poisoned: whatever a padded entry
holds must not reach another entry.
"""

from __future__ import annotations

import inspect
import itertools
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.glm.modeling_glm import apply_rotary_pos_emb as rotate_interleaved
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb as rotate_halves

from sparsesight import ops

SEEDS = range(4)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
POISON = {"nan": math.nan, "huge": 1e30}
LAYOUTS: dict[str, Callable[[int, int], list[int]]] = {
    "left": lambda n, width: list(range(width - n, width)),
    "right": lambda n, width: list(range(n)),
    "middle": lambda n, width: [*range(n // 2), *range(width - (n - n // 2), width)],
}

layouts = pytest.mark.parametrize("layout", LAYOUTS)
poisons = pytest.mark.parametrize("poison", POISON.values(), ids=POISON)
seeds = pytest.mark.parametrize("seed", SEEDS)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def double(x: Tensor) -> np.ndarray:
    return x.double().numpy()


def pad(samples: Sequence[Tensor], width: int, layout: str, fill: Any, axis: int = 0) -> Tensor:
    """Stack samples whose ``axis`` differs in length; ``fill`` goes where a sample has nothing."""
    rows = []
    for x in samples:
        shape = [*x.shape[:axis], width, *x.shape[axis + 1 :]]
        at = torch.tensor(LAYOUTS[layout](x.shape[axis], width), dtype=torch.long)
        rows.append(x.new_full(shape, fill).index_copy(axis, at, x))
    return torch.stack(rows)


def own(sizes: Sequence[int], width: int, layout: str) -> Tensor:
    """The mask that goes with :func:`pad`."""
    return pad([torch.ones(n, dtype=torch.bool) for n in sizes], width, layout, False)


def true(*shape: int) -> Tensor:
    return torch.ones(shape, dtype=torch.bool)


def close(actual: Tensor, expected: Any, tolerance: float = 2e-6) -> None:
    expected = expected if isinstance(expected, np.ndarray) else double(expected)
    np.testing.assert_allclose(double(actual), expected, atol=tolerance, rtol=tolerance)


def softmax(logits: np.ndarray, axis: int = -1) -> np.ndarray:
    e = np.exp(logits - logits.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


# -- annotations -------------------------------------------------------------------------------------------------


def test_wrong_shapes_and_dtypes_are_caught() -> None:
    """The checks that tests/conftest.py installs do check: arguments, results, dataclasses and named tuples."""
    jaxtyping = pytest.importorskip("jaxtyping")
    pytest.importorskip("beartype")
    from sparsesight.core.rows import Rows

    def refused(call: Callable[..., Any], *args: Any) -> None:
        with pytest.raises(jaxtyping.TypeCheckError):
            call(*args)

    row, flag = torch.zeros(2, 3, dtype=torch.long), true(2, 3)
    refused(ops.ranks, normal(0, 2, 3), true(2, 4))
    refused(ops.ranks, normal(0, 2, 3), torch.ones(2, 3))
    refused(ops.causal_rows, row.float(), 3, 0)
    refused(ops.merging._peaks, normal(0, 3), [3], [1], 1)
    refused(Rows, row, row, flag, flag, flag, flag, row[:, :2])
    refused(Rows.start, true(2, 3), true(2, 4))
    refused(ops.Merge, normal(0, 2, 3, 4), row, row, true(2, 2))


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


# -- raters ------------------------------------------------------------------------------------------------------


def raters(visual: np.ndarray, text: np.ndarray) -> np.ndarray:
    share = softmax(visual @ text.T).mean(0)
    margin = np.abs(share / share.mean() - 1).min()
    assert len(share) == 1 or margin > 1e-4, (
        "an input so close to the threshold tests rounding: take another seed"
    )
    chosen = share > share.mean()
    return chosen if chosen.any() else ~chosen


def rater_samples(seed: int, dtype: torch.dtype = torch.float32) -> list[tuple[Tensor, Tensor]]:
    sizes = ((5, 4), (9, 7), (1, 1), (6, 2), (3, 12))
    return [
        (normal(10 * seed + i, v, 8, dtype=dtype), normal(100 + 10 * seed + i, t, 8, dtype=dtype))
        for i, (v, t) in enumerate(sizes)
    ]


@seeds
@dtypes
def test_text_raters(seed: int, dtype: torch.dtype) -> None:
    for visual, text in rater_samples(seed, dtype):
        chosen = ops.text_raters(visual[None], text[None], true(1, len(visual)), true(1, len(text)))
        np.testing.assert_array_equal(chosen[0].numpy(), raters(double(visual), double(text)))


@layouts
@poisons
@seeds
def test_text_raters_in_a_batch(layout: str, poison: float, seed: int) -> None:
    """Also next to a sample that has no text at all."""
    samples = [*rater_samples(seed), (normal(seed, 4, 8), normal(seed, 0, 8))]
    v, t = [len(x) for x, _ in samples], [len(x) for _, x in samples]
    chosen = ops.text_raters(
        pad([x for x, _ in samples], 11, layout, poison),
        pad([x for _, x in samples], 14, layout, poison),
        own(v, 11, layout),
        own(t, 14, layout),
    )
    expected = [torch.from_numpy(raters(double(x), double(y))) for x, y in samples[:-1]]
    expected.append(torch.zeros(0, dtype=torch.bool))
    np.testing.assert_array_equal(chosen.numpy(), pad(expected, 14, layout, False).numpy())


@layouts
def test_text_raters_are_strictly_above_the_mean(layout: str) -> None:
    """Eight visual tokens give their whole vote: 4, 2, 1 and 1 for the texts, and 2 is exactly the mean."""
    visual = 1000 * torch.eye(4)[[0, 0, 0, 0, 1, 1, 2, 3]]
    text, mask = pad([torch.eye(4)], 6, layout, 0.0), own([4], 6, layout)
    chosen = ops.text_raters(visual[None], text, true(1, 8), mask)
    assert chosen[mask].tolist() == [True, False, False, False]


def test_text_raters_single_token() -> None:
    assert ops.text_raters(normal(0, 1, 5, 8), normal(1, 1, 1, 8), true(1, 5), true(1, 1)).tolist() == [
        [True]
    ]


@layouts
def test_text_raters_equal_tokens_all_rate(layout: str) -> None:
    """Whatever the size: a dot product or a sum that rounds differently from place to place must not choose."""
    for t, v, c in itertools.product((2, 3, 5, 13, 33, 53), (1, 7, 64, 101), (8, 33)):
        text = normal(t, 1, c).expand(t, c)
        visual = 5 * normal(v, 1, v, c)
        assert ops.text_raters(visual, text[None], true(1, v), true(1, t)).all()
        padded, mask = pad([text], t + 3, layout, 7.0), own([t], t + 3, layout)
        assert (ops.text_raters(visual, padded, true(1, v), mask) == mask).all()


# -- attention ---------------------------------------------------------------------------------------------------


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


def random_mask(seed: int, *shape: int) -> Tensor:
    mask = normal(seed, *shape) > -0.3
    mask[..., 0] = True
    return mask


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


# -- rotary weight -----------------------------------------------------------------------------------------------


def frequencies(d: int, base: float = 1e4) -> Tensor:
    return 1.0 / base ** (torch.arange(0, d, 2).float() / d)


def rotated(rotate: Any, angle: Tensor, d: int) -> Tensor:
    """All-ones head vectors [b, n, d] rotated by the function a model uses; ``angle`` is [b, n, f]."""
    both = torch.cat((angle, angle), -1).double()
    ones = torch.ones(angle.shape[0], 1, angle.shape[1], d, dtype=torch.float64)
    return rotate(ones, ones, both.cos(), both.sin())[0][:, 0]


@seeds
@pytest.mark.parametrize("d", [8, 64, 128])
@pytest.mark.parametrize("rotary", [1.0, 0.5])
def test_rotary_gravity_is_what_rotating_ones_gives(seed: int, d: int, rotary: float) -> None:
    """For both pair layouts, and where only a part of the head is rotated."""
    rng = np.random.default_rng(seed)
    rows, keys = (
        torch.from_numpy(rng.integers(0, 900, (2, 6))),
        torch.from_numpy(rng.integers(0, 900, (2, 11))),
    )
    inv_freq = frequencies(int(d * rotary))
    actual = ops.rope_weight(rows, keys, inv_freq, d)
    for rotate in (rotate_interleaved, rotate_halves) if rotary == 1 else (rotate_interleaved,):
        a, b = (rotated(rotate, x[..., None] * inv_freq.double(), d) for x in (rows, keys))
        close(actual, a @ b.transpose(1, 2) / math.sqrt(d), 2e-4)


@seeds
def test_rotary_gravity_of_several_axes(seed: int) -> None:
    """mrope: each frequency reads the time, the height or the width of a position."""
    rng = np.random.default_rng(seed)
    d, inv_freq, axis = 32, frequencies(32), torch.tensor([0] * 4 + [1] * 6 + [2] * 6)
    rows, keys = (
        torch.from_numpy(rng.integers(0, 60, (3, 2, 5))),
        torch.from_numpy(rng.integers(0, 60, (3, 2, 8))),
    )
    parts = []
    for x in (rows, keys):
        angle = torch.stack([x[int(a)] * f.double() for a, f in zip(axis, inv_freq, strict=True)], -1)
        parts.append(rotated(rotate_halves, angle, d))
    actual = ops.rope_weight(rows, keys, inv_freq, d, axis)
    close(actual, parts[0] @ parts[1].transpose(1, 2) / math.sqrt(d), 1e-5)
    text = rows[:1].expand(3, -1, -1)  # text has the same position on every axis
    same = ops.rope_weight(text, text, inv_freq, d, axis)
    close(same, ops.rope_weight(rows[0], rows[0], inv_freq, d), 1e-6)


def test_rotary_gravity_crosses_zero_at_1707() -> None:
    distance = torch.arange(1750)[None]
    weight = ops.rope_weight(torch.zeros(1, 1, dtype=torch.long), distance, frequencies(128), 128)[0, 0]
    assert (weight[:1707] > 0).all() and weight[1707] < 0
    close(weight[[0, 1, 600]], np.array([math.sqrt(128), 10.98, 2.35]), 5e-3)


def test_rotary_gravity_knows_distances_only() -> None:
    """Far into a long context the same distances weigh the same, to the last digit."""
    rows, keys = torch.tensor([[40, 55, 61]]), torch.arange(40)[None]
    near = ops.rope_weight(rows, keys, frequencies(128), 128)
    far = ops.rope_weight(rows + 1_000_000, keys + 1_000_000, frequencies(128), 128)
    assert torch.equal(near, far)


@layouts
def test_rotary_gravity_in_a_batch(layout: str) -> None:
    """Rows are padded on the left, as compaction leaves them; keys anywhere."""
    samples = [(torch.arange(500, 500 + r), torch.arange(k)) for r, k in ((3, 20), (6, 31), (1, 7))]
    weight = ops.rope_weight(
        pad([x for x, _ in samples], 7, "left", 10**9),
        pad([y for _, y in samples], 33, layout, 10**9),
        frequencies(64),
        64,
    )
    for i, (rows, keys) in enumerate(samples):
        alone = ops.rope_weight(rows[None], keys[None], frequencies(64), 64)[0]
        at = LAYOUTS[layout](len(keys), 33)
        close(weight[i][7 - len(rows) :][:, at], alone, 1e-6)


# -- choosing ----------------------------------------------------------------------------------------------------


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


# -- merging -----------------------------------------------------------------------------------------------------


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


# -- no waiting for the device -----------------------------------------------------------------------------------


class Synchronised(Exception):
    pass


class NoSync(TorchDispatchMode):
    """Refuse what would read a tensor's values back to the host."""

    names = (
        "local_scalar_dense",
        "nonzero",
        "is_nonzero",
        "masked_select",
        "equal",
        "unique",
        "bincount",
        "repeat_interleave",
    )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__.lstrip("_")
        if name.startswith(self.names):
            raise Synchronised(str(func))
        if name.startswith("index"):  # a boolean index is a nonzero in disguise
            flat = [x for a in args for x in (a if isinstance(a, list | tuple) else [a])]
            if any(isinstance(x, Tensor) and x.dtype == torch.bool for x in flat[1:]):
                raise Synchronised(f"{func} with a boolean index")
        return func(*args, **(kwargs or {}))


@contextmanager
def no_sync() -> Iterator[None]:
    def refuse(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        raise Synchronised("a tensor was read")

    readers = ("item", "tolist", "nonzero", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__")
    with pytest.MonkeyPatch.context() as patch, NoSync():
        for name in readers:
            patch.setattr(Tensor, name, refuse)
        yield


QUERY, KEY, MASK = normal(0, 2, 4, 5, 8), normal(1, 2, 2, 9, 8), random_mask(2, 2, 1, 5, 9)
ROW = torch.tensor([[3, 1, 4, 0, 2], [0, 4, 2, 3, 1]])
FLAG = torch.tensor([[True, False, True, True, True], [True, True, False, True, False]])
FEATURES, KEEP = normal(0, 2, 5, 8), torch.tensor([3, 2])
CALLS: dict[str, Callable[[], Any]] = {
    "gather_rows": lambda: ops.gather_rows(normal(0, 2, 5, 3), ROW),
    "compact": lambda: ops.compact(FLAG, 4, ROW),
    "text_raters": lambda: ops.text_raters(normal(0, 2, 5, 8), normal(1, 2, 5, 8), FLAG, FLAG),
    "causal_rows": lambda: ops.causal_rows(ROW, 9, 4, true(2, 9)),
    "attention_rows": lambda: ops.attention_rows(QUERY, KEY, MASK, 0.4, 2.0),
    "head_sums": lambda: ops.head_sums(QUERY, KEY, MASK, FLAG, 0.4, 2.0, normal(3, 2, 5, 9)),
    "head_mean": lambda: ops.head_mean(QUERY, KEY, MASK, 0.4, 2.0),
    "select_heads": lambda: ops.select_heads(normal(0, 2, 4, 5), FLAG, 2),
    "rope_weight": lambda: ops.rope_weight(ROW, ROW, frequencies(8), 8),
    "ranks": lambda: ops.ranks(normal(0, 2, 5), FLAG),
    "group_ranks": lambda: ops.group_ranks(ROW, torch.zeros_like(ROW), torch.full_like(ROW, 5), FLAG),
    "first_ranked": lambda: ops.first_ranked(ROW, FLAG, torch.tensor([2, 1]), 3),
    "attention_rank": lambda: ops.attention_rank(normal(0, 2, 5, 5), FLAG, FLAG),
    "rank_rule": lambda: ops.rank_rule(torch.tensor([3, 4]), torch.tensor([9, 4]), 1.5, 0.0),
    "density_peaks_merge": lambda: ops.density_peaks_merge(normal(0, 3, 12, 4), [12, 9, 3], [2, 3, 1]),
    "unit_vectors": lambda: ops.unit_vectors(FEATURES, FLAG),
    "farthest_point_ranks": lambda: ops.farthest_point_ranks(FEATURES, FLAG, KEEP, 3),
    "greedy_dpp_map": lambda: ops.greedy_dpp_map(FEATURES, normal(1, 2, 5).abs(), FLAG, KEEP, 3),
    "greedy_gaussian_map": lambda: ops.greedy_gaussian_map(FEATURES, ROW, KEEP - 1, FLAG, KEEP, 3),
    "cosine_coverage": lambda: ops.cosine_coverage(FEATURES, FLAG),
    "softmax_coverage": lambda: ops.softmax_coverage(normal(1, 2, 3, 8), FEATURES, true(2, 3), FLAG, 0.1),
    "coverage_ranks": lambda: ops.coverage_ranks(
        ops.cosine_coverage(FEATURES, FLAG), normal(1, 2, 5).abs(), FLAG, KEEP, 3
    ),
    "unlike_mean_ranks": lambda: ops.unlike_mean_ranks(FEATURES, ROW // 2, FLAG, 0.1),
    "least_similar_places": lambda: ops.least_similar_places(
        FEATURES, FLAG, ROW == 3, normal(1, 2, 2, 8), true(2, 2), KEEP
    ),
    "even_target_merge": lambda: ops.even_target_merge(FEATURES, normal(1, 2, 5, 4), [5, 4], [2, 1]),
    "bipartite_merge": lambda: ops.bipartite_merge(FEATURES, [5, 4], [2, 1]),
    "thinned_places": lambda: ops.thinned_places(FEATURES, ROW, FLAG, KEEP - 1, KEEP, KEEP, 3),
    "likeness_variance": lambda: ops.likeness_variance(FEATURES, FLAG),
    "group_seats": lambda: ops.group_seats(torch.zeros_like(ROW), FLAG, KEEP),
    "evenly_spaced": lambda: ops.evenly_spaced(ops.group_seats(torch.zeros_like(ROW), FLAG, KEEP), FLAG),
    "grid_pool": lambda: ops.grid_pool(FEATURES, torch.zeros_like(ROW), [5, 4], [2, 1]),
    "apportion": lambda: ops.apportion(normal(0, 2, 5).abs(), ROW + 1, KEEP),
    "even_runs": lambda: ops.even_runs(FLAG, 2),
}


def test_every_function_is_known_here() -> None:
    public = {
        n for n, f in vars(ops).items() if inspect.isfunction(f) and f.__module__.startswith(ops.__name__)
    }
    assert {n for n in public if not n.startswith("_")} == set(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_nothing_reads_a_value_back(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in list(sys.modules.values()):  # tensors as if on a device
        if module.__name__.startswith("sparsesight.ops.") and hasattr(module, "reads_are_free"):
            monkeypatch.setattr(module, "reads_are_free", lambda x: False)
    with no_sync():
        CALLS[name]()


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.item(),
        lambda x: x.tolist(),
        lambda x: bool(x),
        lambda x: int(x),
        lambda x: torch.ones(1)[x > 0],
        lambda x: torch.nonzero(x),
        lambda x: x.max() if x > 0 else x,
        lambda x: torch.equal(x, x),
        lambda x: torch.repeat_interleave(x, x.long()),
    ],
)
def test_reading_a_value_back_would_be_noticed(read: Callable[[Tensor], Any]) -> None:
    with pytest.raises(Synchronised), no_sync():
        read(torch.ones(1))
