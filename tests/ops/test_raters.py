"""Text raters against a few-line reference, and a sample in a batch against the same sample alone."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from sparsesight import ops

from .batches import double, dtypes, layouts, normal, own, pad, poisons, seeds, softmax, true


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
