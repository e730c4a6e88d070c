"""Random: reproducible, different from seed to seed, and fair."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from sparsesight import Random, SparseSightError

from .stages import Sample, build


def kept(method: Random, *sizes: int, index: int = 0) -> list[list[int]]:
    """Which visual tokens stay, for samples of so many."""
    samples = [Sample.random(i, 2, n, 3) for i, n in enumerate(sizes)]
    _, stage = build(method, samples, index=index)
    selection = method.select(stage)
    return [o[k].tolist() for o, k in zip(stage.origin, selection.keep, strict=True)]


def test_the_same_seed_draws_the_same() -> None:
    assert kept(Random((20, 10, 5)), 100) == kept(Random((20, 10, 5)), 100)


def test_seeds_and_stages_differ() -> None:
    """Another draw shares about as many tokens as chance has it: 20 of 100, 4 of them in common."""
    draws = [kept(Random((20, 20, 20), seed=s), 100)[0] for s in range(30)]
    draws += [kept(Random((20, 20, 20)), 100, index=i)[0] for i in (1, 2)]
    shared = [len(set(a) & set(b)) for i, a in enumerate(draws) for b in draws[:i]]
    assert max(shared) < 13
    assert 3.5 < sum(shared) / len(shared) < 4.5


def test_a_sample_keeps_the_same_alone_and_in_a_batch() -> None:
    method = Random((20, 10, 5), seed=4)
    together = kept(method, 100, 37, 60)
    assert together == [kept(method, n)[0] for n in (100, 37, 60)]
    assert [len(x) for x in together] == [20, 20, 20]


def test_every_token_has_the_same_chance() -> None:
    """Kept by 2000 seeds with odds of a quarter: each token lies within five standard deviations, and so does the sum
    of squares, which would show tokens that are kept together or a place that is preferred."""
    n, keep, seeds = 64, 16, 2000
    count = torch.zeros(n)
    together = torch.zeros(n, n)
    _, stage = build(Random((keep,)), [Sample.random(0, 2, n, 3)])
    for seed in range(seeds):
        flag = Random((keep,), seed=seed).select(stage).keep[0].float()
        count += flag
        together += flag.outer(flag)
    mean, deviation = seeds * keep / n, math.sqrt(seeds * keep / n * (1 - keep / n))
    assert (count - mean).abs().max() < 5 * deviation
    pairs = together[~torch.eye(n, dtype=torch.bool)] / seeds
    expected = keep * (keep - 1) / (n * (n - 1))
    assert (pairs - expected).abs().max() < 6 * math.sqrt(expected * (1 - expected) / seeds)


def test_scores_hardly_ever_tie() -> None:
    """A tie goes to the earlier token, so ties would favour the top of the picture."""
    _, stage = build(Random((50,)), [Sample.random(0, 1, 3000, 2)])
    for seed in (0, 1, -7, 10**12):
        score = Random((50,), seed=seed).score(stage)[0]
        assert score.unique().numel() > 2990
        assert (score >= 0).all() and score.isfinite().all()


@pytest.mark.parametrize("seed", [1.5, "3", None, True])
def test_seeds_are_whole_numbers(seed: Any) -> None:
    with pytest.raises(SparseSightError, match=f"seed={seed!r}: a whole number"):
        Random(seed=seed)
