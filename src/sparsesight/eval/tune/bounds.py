"""Exact tests and bounds for the share of answers that stay.

A unit is a row, or all rows about the same pictures; its loss is the share of its answers that changed. Units are taken
for independent draws of what the promise is about.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
TOLERANCE = 1e-9  # sums of shares such as 1/3


def p_value(losses: Array, keep: float) -> float:
    """How likely so few losses are if less than ``keep`` of the answers stay; small values show that it stays.

    Losses of 0 and 1 have the binomial tail, which inverts to Clopper and Pearson's bound (Biometrika 26, 1934). Others
    have the smaller of Hoeffding's bound by relative entropy and of Bentkus' (Bates et al., arXiv:2101.02703, section
    3.1; Angelopoulos et al., "Learn then Test", arXiv:2110.01052, section 1.2).

    Args:
        losses: float64 [n] in [0, 1], n >= 1.
        keep: in (0, 1).
    """
    n, total, risk = len(losses), float(losses.sum()), 1 - keep
    if not np.any((losses != 0) & (losses != 1)):
        return at_most(round(total), n, risk)
    mean = total / n
    if mean >= risk:
        return 1.0
    return min(
        math.exp(-n * _entropy(mean, risk)), math.e * at_most(math.ceil(total - TOLERANCE), n, risk), 1.0
    )


def lower_bound(losses: Array, confidence: float) -> float:
    """The largest share of answers of which it is shown that it stays; 0 if none is.

    Args:
        losses: float64 [n] in [0, 1].
        confidence: that the bound holds, of this one test.
    """
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        if p_value(losses, middle) <= 1 - confidence:
            low = middle
        else:
            high = middle
    return low


def least_units(keep: float, confidence: float) -> int:
    """How many units without a loss show that ``keep`` of the answers stay."""
    return math.ceil(math.log(1 - confidence) / math.log(keep))


def most_shown(units: int, confidence: float) -> float:
    """The largest share that so many units can show: without a loss."""
    return float((1 - confidence) ** (1 / units)) if units else 0.0


@lru_cache(maxsize=1 << 16)
def at_most(k: int, n: int, chance: float) -> float:
    """The chance of at most ``k`` losses among ``n``, each with a ``chance``."""
    if k >= n or chance <= 0:
        return 1.0
    if k < 0 or chance >= 1:
        return 0.0
    i = np.arange(k + 1)
    logs = _choose(n)[: k + 1] + i * math.log(chance) + (n - i) * math.log1p(-chance)
    return min(float(np.exp(logs).sum()), 1.0)


@lru_cache(maxsize=1024)
def most_losses(n: int, keep: float, confidence: float) -> int:
    """How many losses among ``n`` still show that ``keep`` stays; -1 if none."""
    k = -1
    while k < n and at_most(k + 1, n, 1 - keep) <= 1 - confidence:
        k += 1
    return k


@lru_cache(maxsize=1 << 14)
def chance_to_pass(losses: float, units: int, held: int, keep: float, confidence: float) -> float:
    """How likely ``held`` new units pass, after a total loss in ``units`` others.

    By the beta-binomial distribution with Jeffreys' prior. It orders and saves work; no promise rests on it.
    """
    most = most_losses(held, keep, confidence)
    if most < 0:
        return 0.0
    a, b, k = losses + 0.5, units - losses + 0.5, np.arange(most + 1)
    logs = [math.lgamma(a + x) + math.lgamma(b + held - x) - math.lgamma(a + b + held) for x in k.tolist()]
    start = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return min(float(np.exp(_choose(held)[: most + 1] + np.array(logs) + start).sum()), 1.0)


def _entropy(a: float, b: float) -> float:
    """Relative entropy of two coins, in nats."""
    first = a * math.log(a / b) if a > 0 else 0.0
    return first + (1 - a) * math.log((1 - a) / (1 - b))


@lru_cache(maxsize=64)
def _choose(n: int) -> Any:
    """Logarithms of the binomial coefficients of ``n``, float64 [n + 1]."""
    factorials = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, n + 1)))))
    return factorials[n] - factorials - factorials[::-1]
