"""Exact bounds, held against sums that are written out and against tables."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sparsesight.eval.tune.bounds import (
    at_most,
    chance_to_pass,
    least_units,
    lower_bound,
    most_losses,
    most_shown,
    p_value,
)


def exact(k: int, n: int, q: float) -> float:
    return sum(math.comb(n, i) * q**i * (1 - q) ** (n - i) for i in range(k + 1))


@pytest.mark.parametrize(
    ("k", "n", "q"), [(0, 1, 0.5), (3, 10, 0.2), (10, 900, 0.02), (40, 50, 0.9), (-1, 5, 0.1)]
)
def test_the_binomial_tail(k: int, n: int, q: float) -> None:
    assert at_most(k, n, q) == pytest.approx(exact(k, n, q), rel=1e-9)


def losses(changed: int, n: int) -> np.ndarray:
    return np.array([1.0] * changed + [0.0] * (n - changed))


@pytest.mark.parametrize(("changed", "n"), [(0, 59), (1, 10), (5, 100), (12, 675)])
def test_clopper_and_pearson(changed: int, n: int) -> None:
    """By its definition: at the bound, so few changes have a chance of exactly one in twenty."""
    assert exact(changed, n, 1 - lower_bound(losses(changed, n), 0.95)) == pytest.approx(0.05, rel=1e-6)
    assert lower_bound(losses(n, n), 0.95) == 0


def test_how_much_can_be_shown() -> None:
    assert least_units(0.98, 0.95) == 149
    assert p_value(losses(0, 149), 0.98) <= 0.05 < p_value(losses(0, 148), 0.98)
    assert most_shown(60, 0.95) == pytest.approx(0.9513, abs=1e-4)
    assert [most_losses(n, 0.98, 0.95) for n in (148, 149, 236, 600)] == [-1, 0, 1, 6]


def test_shares_of_units_have_a_weaker_bound() -> None:
    """Of units that lose all or nothing it is binomial; a share costs something, and never helps."""
    whole, shares = losses(4, 400), np.array([0.5] * 8 + [0.0] * 392)
    assert p_value(whole, 0.98) < p_value(shares, 0.98) < 1
    assert p_value(np.full(10, 0.5), 0.98) == 1.0
    assert p_value(np.array([0.5] + [0.0] * 299), 0.98) <= 0.05


def test_bounds_of_shares_cover() -> None:
    """Shares of three answers, of which the mean is exactly the promise: at most one test in twenty is wrong."""
    rng = np.random.default_rng(0)
    drawn = rng.binomial(3, 0.1, size=(3000, 80)) / 3
    assert np.mean([p_value(x, 0.9 + 1e-9) <= 0.05 for x in drawn]) <= 0.05
    assert np.mean([p_value(x, 0.8) <= 0.05 for x in drawn]) > 0.3  # and it is no empty promise


def test_the_chance_to_pass() -> None:
    rng = np.random.default_rng(0)
    rate = rng.beta(2.5, 98.5, 200_000)
    expected = (rng.binomial(300, rate) <= most_losses(300, 0.98, 0.95)).mean()
    assert chance_to_pass(2, 100, 300, 0.98, 0.95) == pytest.approx(expected, abs=0.005)
    assert chance_to_pass(0, 10, 100, 0.98, 0.95) == 0.0
