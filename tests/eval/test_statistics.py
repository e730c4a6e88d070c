"""Intervals and tests against worked examples and short independent references."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from sparsesight.eval.statistics import Estimate, estimate, mcnemar, resample


def straightforward(values: list[float], unit: list[int], draws: int) -> list[float]:
    """Means over resampled units, one draw at a time, by lists."""
    generator = np.random.default_rng(0)
    names = sorted(set(unit))
    found = []
    for _ in range(draws):
        picked = [names[i] for i in generator.integers(len(names), size=len(names))]
        taken = [v for name in picked for v, u in zip(values, unit, strict=True) if u == name]
        found.append(sum(taken) / len(taken))
    return found


def test_draws_are_those_of_a_plain_loop() -> None:
    values, unit = [1.0, 0.0, 1.0, 1.0, 0.5, 0.0, 0.25], [3, 3, 1, 2, 2, 2, 9]
    rows = np.array([[v, 1.0] for v in values])
    totals = resample(rows, unit, draws=50)
    assert np.allclose(totals[:, 0] / totals[:, 1], straightforward(values, unit, 50))


def test_chunks_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, unit = np.arange(21.0)[:, None], np.arange(21)
    whole = resample(rows, unit)
    monkeypatch.setattr("sparsesight.eval.statistics.AT_ONCE", 100)
    assert (resample(rows, unit) == whole).all()


def test_interval_of_a_share_is_the_textbooks() -> None:
    right = np.arange(400) % 4 != 0
    drawn = resample(right[:, None].astype(float), np.arange(400))[:, 0] / 400
    found = estimate(right.mean(), drawn, 400)
    error = 1.96 * math.sqrt(0.75 * 0.25 / 400)  # 0.042
    assert found.low is not None and found.high is not None
    assert abs(found.low - (0.75 - error)) < 0.005 and abs(found.high - (0.75 + error)) < 0.005


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Of 200 made-up benchmarks of 60 pictures with 4 questions each, about 95 % of the intervals hold the truth."""
    generator = np.random.default_rng(7)
    unit = np.arange(60).repeat(4)
    by_picture = by_question = 0
    for _ in range(200):
        ease = generator.beta(1, 1, size=60).repeat(4)  # questions of one picture are alike; the mean is 0.5
        right = (generator.random(240) < ease).astype(float)[:, None]
        for name, units in (("picture", unit), ("question", np.arange(240))):
            drawn = resample(right, units, draws=400)[:, 0] / 240
            held = not estimate(right.mean(), drawn, 60).excludes(0.5)
            by_picture += held and name == "picture"
            by_question += held and name == "question"
    assert 178 <= by_picture <= 200
    assert by_question < by_picture  # what ignoring the units would do


def test_strata_keep_their_sizes() -> None:
    stratum = np.array(["a"] * 5 + ["b"] * 30)
    rows = np.stack([stratum == "a", stratum == "b"], axis=1).astype(float)
    assert (resample(rows, np.arange(35), stratum) == [5, 30]).all()
    assert resample(rows, np.arange(35)).std() > 0
    with pytest.raises(ValueError, match="two strata"):
        resample(rows, np.zeros(35), stratum)


@pytest.mark.parametrize("units", range(1, 9))
def test_what_few_units_cannot_show_has_no_interval(units: int) -> None:
    """All of them differ to one side, which by chance happens in 2 of 2**units draws."""
    found = estimate(1.0, np.ones(10), units)
    shown = 2 / 2**units < 0.05
    assert found.excludes(0) is shown
    if not shown:
        assert found == Estimate(1.0, None, None)
        assert found.as_difference() == "1.0 (no interval)"


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (Estimate(-0.4, -1.9, 1.1), "no difference found: -0.4 (-1.9 to 1.1)"),
        (Estimate(-2.3, -3.9, -0.7), "-2.3 (-3.9 to -0.7)"),
        (Estimate(2.0, 0.01, 4.0), "2.0 (0.0 to 4.0)"),
        (Estimate(-0.01, -0.04, 0.0), "no difference found: 0.0 (0.0 to 0.0)"),
    ],
)
def test_a_difference_inside_its_interval_says_so(found: Estimate, text: str) -> None:
    assert found.as_difference() == text


@pytest.mark.parametrize(
    ("ahead", "behind", "p"),
    [
        (0, 0, 1.0),
        (5, 5, 1.0),
        (1, 9, 22 / 1024),  # 2 (C(10, 0) + C(10, 1)) / 2**10
        (0, 6, 2 / 64),
        (8, 0, 2 / 256),
    ],
)
def test_mcnemar_worked_examples(ahead: int, behind: int, p: float) -> None:
    first = [True] * ahead + [False] * behind + [True, False]
    second = [False] * ahead + [True] * behind + [True, False]
    found = mcnemar(first, second)
    assert (found.first, found.second) == (ahead, behind)
    assert found.p == pytest.approx(p, rel=1e-12)


def test_mcnemar_equals_fractions_also_for_many_pairs() -> None:
    for ahead, behind in ((40, 61), (700, 820), (1500, 1401)):
        trials = ahead + behind
        tail = sum(math.comb(trials, k) for k in range(min(ahead, behind) + 1))
        found = mcnemar([True] * ahead + [False] * behind, [False] * ahead + [True] * behind)
        assert found.p == pytest.approx(float(Fraction(2 * tail, 2**trials)), rel=1e-9)
    assert mcnemar([True] * 4000, [False] * 4000).p == 0.0  # below the smallest float


def test_mcnemar_refuses_other_questions() -> None:
    with pytest.raises(ValueError, match="different questions"):
        mcnemar([True], [True, False])
