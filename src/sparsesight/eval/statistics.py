"""Intervals and tests for scores on the same questions: the paired bootstrap over units, and McNemar's exact test.

A *unit* is what a benchmark samples independently: a question, or all questions about one picture or scene. Resampling
the questions of a unit separately would make the intervals too narrow. Each interval is for a single comparison: of
many, one in twenty misses the true value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

DRAWS = 2000
SEED = 0
LEAST = 6  # units with an interval: of fewer, even if all of them differ to one side, chance does so once in 16 or more
COVERED = (2.5, 97.5)  # percentiles: a 95 % interval
AT_ONCE = 4_000_000  # drawn numbers held in memory

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; without one (None) where there are too few units (:data:`LEAST`)."""

    value: float
    low: float | None
    high: float | None

    def excludes(self, number: float) -> bool:
        """Whether the interval lies on one side of a number."""
        return self.low is not None and self.high is not None and not self.low <= number <= self.high

    def text(self, digits: int = 1) -> str:
        """``-2.3 (-3.9 to -0.7)``."""
        if self.low is None or self.high is None:
            return f"{_signless(self.value, digits)} (no interval)"
        low, high = _signless(self.low, digits), _signless(self.high, digits)
        return f"{_signless(self.value, digits)} ({low} to {high})"

    def holds(self, number: float) -> bool:
        """Whether the interval contains a number; without an interval nothing is known."""
        return self.low is not None and not self.excludes(number)

    def as_difference(self) -> str:
        """The same for a difference; one whose interval holds zero is called none that was found."""
        return f"no difference found: {self.text()}" if self.holds(0) else self.text()


def resample(
    rows: Array,
    unit: Sequence[Any] | NDArray[Any],
    stratum: Sequence[Any] | NDArray[Any] | None = None,
    *,
    draws: int = DRAWS,
    seed: int = SEED,
) -> Array:
    """Column sums of ``rows`` [n, k] in every draw [draws, k]; a draw takes as many units as there are, with repeats.

    Whatever is compared belongs into the columns of one call: the draws are then the same for all, which is what makes
    a comparison paired. (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, sections 6 and 8.)

    Args:
        rows: float64 [n, k], what a metric adds up per question.
        unit: [n], which unit a question is of.
        stratum: [n], parts of the benchmark whose sizes are fixed: each is drawn for itself.

    Raises:
        ValueError: if a unit lies in two strata.
    """
    names, at = np.unique(np.asarray(unit), return_inverse=True)
    per_unit = np.zeros((len(names), rows.shape[1]))
    np.add.at(per_unit, at, rows)
    totals = np.zeros((draws, rows.shape[1]))
    generator = np.random.default_rng(seed)
    for members in _strata(at, len(names), stratum):
        n = len(members)
        step = max(AT_ONCE // n, 1)
        for start in range(0, draws, step):
            count = min(step, draws - start)
            drawn = generator.integers(n, size=(count, n)) + n * np.arange(count)[:, None]
            times = np.bincount(drawn.ravel(), minlength=count * n).reshape(count, n)
            totals[start : start + count] += times @ per_unit[members]
    return totals


def estimate(value: float, drawn: Array, units: int) -> Estimate:
    """A value with the percentile interval of what it was in every draw [draws]; rounded to four digits.

    Percentiles of a share near 0 or 1 are too optimistic: of only right answers the interval is (1, 1). Fewer than
    :data:`LEAST` units have no interval: if all of them agree, its width is 0, and nothing was shown.
    """
    if units < LEAST:
        return Estimate(_rounded(value), None, None)
    low, high = np.percentile(drawn, COVERED)
    return Estimate(_rounded(value), _rounded(low), _rounded(high))


@dataclass(frozen=True)
class McNemar:
    """Which of two was right where the other was wrong, and how likely so uneven a split is by chance.

    Attributes:
        first, second: questions that only the first, only the second answered rightly.
        p: two-sided, exact.
    """

    first: int
    second: int
    p: float


def mcnemar(first: Sequence[bool] | NDArray[np.bool_], second: Sequence[bool] | NDArray[np.bool_]) -> McNemar:
    """McNemar's test on marks [n] of the same questions, by the binomial distribution of the discordant pairs.

    It takes questions for independent; where a unit holds several, the bootstrap's interval is the one to trust.
    (McNemar, Psychometrika 12, 1947.)
    """
    one, other = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if one.shape != other.shape:
        raise ValueError(f"marks of different questions: {one.shape} and {other.shape}")
    ahead, behind = int((one & ~other).sum()), int((~one & other).sum())
    return McNemar(ahead, behind, _two_sided(min(ahead, behind), ahead + behind))


def _two_sided(fewer: int, trials: int) -> float:
    """Twice the chance of at most ``fewer`` heads in so many tosses, in whole numbers until the end."""
    if not trials:
        return 1.0
    ways, at_most = 1, 0
    for k in range(fewer + 1):
        at_most += ways
        ways = ways * (trials - k) // (k + 1)
    numerator, shift = 2 * at_most, max(trials - 1000, 0)
    return min(1.0, math.ldexp(float(numerator >> shift), shift - trials)) if numerator >> shift else 0.0


def _strata(at: NDArray[Any], units: int, stratum: Sequence[Any] | NDArray[Any] | None) -> list[NDArray[Any]]:
    """The units of every stratum."""
    if stratum is None:
        return [np.arange(units)]
    names, part = np.unique(np.asarray(stratum), return_inverse=True)
    of_unit = np.full(units, -1)
    of_unit[at] = part
    if (of_unit[at] != part).any():
        raise ValueError("a unit lies in two strata")
    return [np.flatnonzero(of_unit == index) for index in range(len(names))]


def _rounded(value: float) -> float:
    return round(float(value), 4) + 0.0  # no -0.0


def _signless(value: float, digits: int) -> str:
    """A number without the sign of a zero."""
    return f"{round(value, digits) + 0.0:.{digits}f}"
