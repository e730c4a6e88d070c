"""Asks what a search wants to know, once: answers are on disk before the next are made, so that it can be resumed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import SparseSightError
from ...methods import Method
from ..own.task import SAME, OwnRows
from ..records import Answer
from ..run_dir import RunFolder
from ..sweep import DENSE, batches
from .bounds import Array
from .plan import Plan
from .search import Candidate, search
from .settings import Setting

Answers = dict[int, list[Answer]]  # of the rows of a chunk, by its number


@dataclass(frozen=True)
class Found:
    """The result of a search.

    Attributes:
        candidates: all of them, in the order of the settings.
        chosen: the cheapest that holds; None if none does.
        answers: of each setting and of ``"dense"``, by chunk.
        dense_cost: cost of the dense model's prefill, in the unit of the candidates'.
    """

    candidates: list[Candidate]
    chosen: Candidate | None
    answers: Mapping[str, Answers]
    dense_cost: float


class Asked:
    """Answers of settings to chunks, from the folder or from the model.

    Args:
        task: the rows.
        plan: their chunks.
        settings: what is asked.
        folder: opened for them.
        batch_size: rows in a forward.
        progress: called with a setting's name and a number of rows that were answered, or found to be.
    """

    def __init__(
        self,
        task: OwnRows,
        plan: Plan,
        settings: Sequence[Setting],
        folder: RunFolder,
        batch_size: int,
        progress: Callable[[str, int], None] = lambda name, rows: None,
    ) -> None:
        self._task, self._plan, self._size, self._progress = task, plan, batch_size, progress
        self._methods: dict[str, Method | None] = {DENSE: None, **{x.name: x.method for x in settings}}
        self._files = {name: folder.cell(task.name, name) for name in self._methods}
        sizes = [len(chunk.items) for chunk in plan.chunks]
        self._known: dict[str, Answers] = {n: file.answered(sizes) or {} for n, file in self._files.items()}
        self.used: dict[str, Answers] = {name: {} for name in self._methods}

    def pilot(self, settings: Sequence[str]) -> tuple[float, float] | None:
        """Seconds of a row under the dense model, and under the first of the settings that runs; None if the first
        chunk is answered already, as then a bar tells it better.

        The first chunk takes what only first calls take, so the dense model is timed on the first that is held back.
        """
        if 0 in self._known[DENSE]:
            return None
        self._ask(DENSE, 0)
        dense = self._timed(DENSE, self._plan.parts.search)
        for name in settings:
            try:
                return dense, self._timed(name, 0)
            except SparseSightError:  # the search says why
                continue
        return dense, dense

    def _timed(self, name: str, chunk: int) -> float:
        before = time.perf_counter()
        count = len(self._ask(name, chunk))
        return (time.perf_counter() - before) / count

    def losses(self, name: str, chunk: int) -> Array:
        """The share of changed answers of each unit of a chunk.

        Raises:
            SparseSightError: if the method cannot run.
        """
        self._ask(DENSE, chunk)
        changed = np.array([1 - answer.figures[SAME] for answer in self._ask(name, chunk)])
        return unit_losses(changed, self._plan.chunks[chunk].lengths)

    def macs(self, name: str) -> float:
        """Mean multiply-adds of a setting's prefills, over the search part's rows that it was asked."""
        costs = [
            x.cost["macs_sparse"] for i in range(self._plan.parts.search) for x in self.used[name].get(i, ())
        ]
        return float(np.mean(costs))

    def _ask(self, name: str, chunk: int) -> list[Answer]:
        if chunk not in self.used[name]:
            items = self._plan.chunks[chunk].items
            found = self._known[name].get(chunk)
            if found is None:
                method = self._methods[name]
                found = [x for part in batches(items, self._size) for x in self._task.answers(part, method)]
                self._files[name].append(chunk, found)
            self.used[name][chunk] = found
            self._progress(name, len(items))
        return self.used[name][chunk]


def unit_losses(changed: Array, lengths: Sequence[int]) -> Array:
    """The mean of each unit's rows, which lie one after the other: float64 [rows] to [units]."""
    ends = np.cumsum(lengths)
    return np.array([changed[end - n : end].mean() for end, n in zip(ends, lengths, strict=True)])


def tune(
    asked: Asked,
    settings: Sequence[Setting],
    plan: Plan,
    keep: float,
    confidence: float,
    times: Mapping[str, float] | None = None,
) -> Found:
    """Search for the cheapest setting that keeps the answers.

    Args:
        asked: where answers come from.
        settings: the candidates; those that cannot run are skipped.
        plan: how rows are asked.
        keep, confidence: what is to be shown.
        times: milliseconds of a prefill by name, with ``"dense"``, to go by in place of multiply-adds; a setting that
            is not among them is skipped.

    Raises:
        SparseSightError: no setting can run.
    """
    asked.losses(DENSE, 0)

    def dense() -> float:
        return _dense_cost(asked, plan) if times is None else times[DENSE]

    def ask(name: str, chunk: int) -> Array:
        if times is not None and name not in times:
            raise SparseSightError(
                "its time cannot be measured: it keeps every token of the prompt that was timed"
            )
        return asked.losses(name, chunk)

    candidates, chosen = search(
        {x.name: x.kind for x in settings},
        ask,
        asked.macs if times is None else times.__getitem__,
        dense,
        plan.parts,
        keep,
        confidence,
    )
    if all(x.skipped for x in candidates):
        raise SparseSightError(f"no setting can run: {candidates[0].name}: {candidates[0].skipped}")
    return Found(candidates, chosen, asked.used, dense())


def _dense_cost(asked: Asked, plan: Plan) -> float:
    """Mean multiply-adds of dense prefills, over the rows of the search part that were asked."""
    costs = [x.cost["macs_dense"] for i in range(plan.parts.search) for x in asked.used[DENSE].get(i, ())]
    return float(np.mean(costs))
