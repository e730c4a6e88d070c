"""Shares and differences of shares with bootstrap intervals over scenes, and the groups they are reported for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsesight.bundled.dataset import Example
from sparsesight.bundled.scenes import KINDS, SINGLE_OBJECT

DRAWS = 2000
SEED = 0
COVERED = (2.5, 97.5)  # percentiles: a 95 % interval

Estimate = dict[str, float]  # n, scenes, and share or difference with low and high

ALL, SINGLE = "all", "single-object"
NO_OBJECT = "no object"
GROUPS = (ALL, SINGLE, *KINDS, "small", "large", NO_OBJECT)


def groups(example: Example) -> tuple[str, ...]:
    """The groups that an example counts in, of `GROUPS`: its kind, the size of the object it is about, ..."""
    kind = example.question.kind
    single = (SINGLE,) if kind in SINGLE_OBJECT else ()
    return (ALL, *single, kind, NO_OBJECT if example.size == "none" else example.size)


def estimate(right: np.ndarray, scene: np.ndarray) -> Estimate:
    """The share of `right` (bool [n]) over questions; intervals resample scenes (int [n]), questions and all."""
    low, high = _interval(right.astype(np.float64), scene)
    return {**_size(scene), "share": _short(right.mean()), "low": low, "high": high}


def difference(first: np.ndarray, second: np.ndarray, scene: np.ndarray) -> Estimate:
    """Share of `first` less share of `second` on the same questions; both bool [n], scene int [n]."""
    apart = first.astype(np.float64) - second.astype(np.float64)
    low, high = _interval(apart, scene)
    return {**_size(scene), "difference": _short(apart.mean()), "low": low, "high": high}


def by_group(
    right: np.ndarray, examples: Sequence[Example], wanted: Sequence[str] = GROUPS
) -> dict[str, Estimate]:
    """An estimate for each group that has questions."""
    scene = np.array([example.scene.seed for example in examples])
    member = {name: np.array([name in groups(example) for example in examples]) for name in wanted}
    return {name: estimate(right[mine], scene[mine]) for name, mine in member.items() if mine.any()}


def _interval(values: np.ndarray, scene: np.ndarray) -> tuple[float, float]:
    """Percentiles of the mean of `values` [n] over resampled scenes."""
    names, at = np.unique(scene, return_inverse=True)
    total, count = np.bincount(at, weights=values), np.bincount(at)
    draw = np.random.default_rng(SEED).integers(len(names), size=(DRAWS, len(names)))
    low, high = np.percentile(total[draw].sum(axis=1) / count[draw].sum(axis=1), COVERED)
    return _short(low), _short(high)


def _size(scene: np.ndarray) -> Estimate:
    return {"n": len(scene), "scenes": len(np.unique(scene))}


def _short(value: float) -> float:
    return round(float(value), 4)
