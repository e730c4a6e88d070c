"""Shares and differences of shares with bootstrap intervals over scenes, by groups of questions.

Where all answers or none are right, every resample is alike. The interval of a share is then the exact binomial one
(Clopper and Pearson, Biometrika 26, 1934) of as many trials as there are scenes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsesight.eval import statistics
from sparsesight.eval.scene_task import ALL, GROUPS, NO_OBJECT, SINGLE, groups
from sparsesight.scenes.dataset import Example

__all__ = ["ALL", "GROUPS", "NO_OBJECT", "SINGLE", "Estimate", "by_group", "difference", "estimate", "groups"]

Estimate = dict[str, float]  # n, scenes, and share or difference with low and high


def estimate(right: np.ndarray, scene: np.ndarray) -> Estimate:
    """The share of `right` (bool [n, at least 1]); intervals resample scenes (int [n]), questions and all."""
    found = _estimate("share", right.astype(np.float64), scene)
    if right.all() or not right.any():
        beyond = round(0.025 ** (1 / found["scenes"]), 4)
        low, high = (beyond, 1.0) if right.all() else (0.0, round(1 - beyond, 4))
        found = {**found, "low": low, "high": high}
    return found


def difference(first: np.ndarray, second: np.ndarray, scene: np.ndarray) -> Estimate:
    """Share of `first` less share of `second` on the same questions; both bool [n], scene int [n]."""
    return _estimate("difference", first.astype(np.float64) - second.astype(np.float64), scene)


def by_group(
    right: np.ndarray, examples: Sequence[Example], wanted: Sequence[str] = GROUPS
) -> dict[str, Estimate]:
    """An estimate for each group that has questions."""
    scene = np.array([example.scene.seed for example in examples])
    member = {name: np.array([name in groups(example) for example in examples]) for name in wanted}
    return {name: estimate(right[mine], scene[mine]) for name, mine in member.items() if mine.any()}


def _estimate(name: str, values: np.ndarray, scene: np.ndarray) -> Estimate:
    """The mean of `values` [n]; of too few scenes the interval is the mean itself."""
    totals = statistics.resample(np.stack([values, np.ones(len(values))], axis=1), scene)
    scenes = len(np.unique(scene))
    found = statistics.estimate(values.mean(), totals[:, 0] / totals[:, 1], scenes)
    low, high = (found.value if x is None else x for x in (found.low, found.high))
    return {"n": len(scene), "scenes": scenes, name: found.value, "low": low, "high": high}
