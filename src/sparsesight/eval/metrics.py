"""Benchmark metrics as sums over questions, so that every bootstrap draw can recompute them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .records import Sample
from .statistics import Array

Marks = NDArray[np.bool_]


class Metric(Protocol):
    """A number for a set of samples.

    ``rows`` [n, k] adds up to what ``value`` [..., k] -> [...] makes the number of; rows of one unit are always summed
    together. ``marks`` [n] says which answers are right, None where answers are right by degrees.
    """

    @property
    def title(self) -> str: ...

    @property
    def stratified(self) -> bool:
        """Whether the parts are drawn each for itself."""
        ...

    def rows(self, samples: Sequence[Sample]) -> Array: ...

    def value(self, totals: Array) -> Array: ...

    def marks(self, samples: Sequence[Sample]) -> Marks | None: ...


@dataclass(frozen=True)
class Mean:
    """The mean of one score, as a percentage by default.

    Attributes:
        score: its name.
        scale: what a score of 1 is written as.
    """

    score: str = "correct"
    scale: float = 100

    stratified = False

    @property
    def title(self) -> str:
        return f"{self.score}, %" if self.scale == 100 else self.score

    def rows(self, samples: Sequence[Sample]) -> Array:
        return np.array([[sample.scores[self.score], 1.0] for sample in samples])

    def value(self, totals: Array) -> Array:
        return self.scale * totals[..., 0] / totals[..., 1]

    def marks(self, samples: Sequence[Sample]) -> Marks | None:
        return _marks(samples, self.score)


@dataclass(frozen=True)
class Ratio:
    """What the model's answers were given over what reference answers were given, in %: LLaVA-Bench's.

    Samples have the scores ``model`` and ``reference``, none below 0. (Liu et al., arXiv:2304.08485, section 5.1.)
    """

    title = "% of the reference"
    stratified = False

    def rows(self, samples: Sequence[Sample]) -> Array:
        return np.array([[sample.scores["model"], sample.scores["reference"]] for sample in samples])

    def value(self, totals: Array) -> Array:
        given, reference = totals[..., 0], totals[..., 1]
        return 100 * np.divide(given, reference, out=np.zeros_like(given), where=reference > 0)

    def marks(self, samples: Sequence[Sample]) -> Marks | None:
        return None


@dataclass(frozen=True)
class MeanF1:
    """F1 of "yes" in each part, averaged over the parts: POPE's, with its three sets.

    Samples have the scores ``hit``, ``false_alarm``, ``missed`` and ``correct``, each 0 or 1; an answer that is neither
    yes nor no may be none of them. The unit is the picture, about which all three sets ask. (Li et al.,
    arXiv:2305.10355, section 5.)
    """

    title = "F1, %"
    stratified = False

    def rows(self, samples: Sequence[Sample]) -> Array:
        parts = _parts(samples)
        rows = np.zeros((len(samples), len(parts), 3))
        for row, sample in zip(rows, samples, strict=True):
            row[parts.index(sample.part)] = [sample.scores[x] for x in ("hit", "false_alarm", "missed")]
        return rows.reshape(len(samples), -1)

    def value(self, totals: Array) -> Array:
        hit, false, missed = np.moveaxis(totals.reshape(*totals.shape[:-1], -1, 3), -1, 0)
        both = 2 * hit + false + missed
        f1 = np.divide(2 * hit, both, out=np.zeros_like(both), where=both > 0)
        return 100 * f1.mean(-1)

    def marks(self, samples: Sequence[Sample]) -> Marks | None:
        return _marks(samples, "correct")


@dataclass(frozen=True)
class AccuracyPlus:
    """Accuracy plus the share of units that are right in all their questions, summed over the parts: MME's score.

    Samples have the score ``correct``, 0 or 1; the unit is a picture with its two questions, the part a subtask. The
    sum over MME's 14 subtasks goes up to 2800. (Fu et al., arXiv:2306.13394, section 2.)
    """

    title = "score"
    stratified = True

    def rows(self, samples: Sequence[Sample]) -> Array:
        parts = _parts(samples)
        wrong = {sample.unit for sample in samples if sample.scores["correct"] != 1}
        counted: set[str] = set()
        rows = np.zeros((len(samples), len(parts), 4))
        for row, sample in zip(rows, samples, strict=True):
            new = sample.unit not in counted
            counted.add(sample.unit)
            whole = new and sample.unit not in wrong
            row[parts.index(sample.part)] = sample.scores["correct"], 1, whole, new
        return rows.reshape(len(samples), -1)

    def value(self, totals: Array) -> Array:
        right, questions, whole, units = np.moveaxis(totals.reshape(*totals.shape[:-1], -1, 4), -1, 0)
        return (100 * (right / questions + whole / units)).sum(-1)

    def marks(self, samples: Sequence[Sample]) -> Marks | None:
        return _marks(samples, "correct")


@dataclass(frozen=True)
class AllRight:
    """The share of units that are right in all their questions, in %: MMBench's, which asks each question with its
    options in several orders. (Liu et al., arXiv:2307.06281, section 4.)
    """

    title = "all orders right, %"
    stratified = False

    def rows(self, samples: Sequence[Sample]) -> Array:
        wrong = {sample.unit for sample in samples if sample.scores["correct"] != 1}
        counted: set[str] = set()
        rows = np.zeros((len(samples), 2))
        for row, sample in zip(rows, samples, strict=True):
            new = sample.unit not in counted
            counted.add(sample.unit)
            row[:] = new and sample.unit not in wrong, new
        return rows

    def value(self, totals: Array) -> Array:
        return 100 * totals[..., 0] / totals[..., 1]

    def marks(self, samples: Sequence[Sample]) -> Marks | None:
        """Of the questions in each of their orders."""
        return _marks(samples, "correct")


def _parts(samples: Sequence[Sample]) -> list[str]:
    return sorted({sample.part for sample in samples})


def _marks(samples: Sequence[Sample], score: str) -> Marks | None:
    values: Any = np.array([sample.scores[score] for sample in samples])
    return values == 1 if np.isin(values, (0, 1)).all() else None
