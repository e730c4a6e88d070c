"""The interface of a task: items that are answered in batches and scored one by one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from ..errors import SparseSightError
from .records import Answer, Item, Sample

if TYPE_CHECKING:
    from ..equal_cost import PromptSizes
    from ..methods import Method
    from .metrics import Metric


Answering = Callable[[Sequence[Item]], Sequence[Answer]]


class Task(Protocol):
    """Items with a way to answer and to score them; a sweep knows no more of models and harnesses."""

    @property
    def name(self) -> str: ...

    @property
    def unit(self) -> str:
        """What a unit of its items is, in the singular ("scene")."""
        ...

    @property
    def metric(self) -> Metric: ...

    @property
    def items(self) -> Sequence[Item]: ...

    def answering(self, method: Method | None) -> AbstractContextManager[Answering]:
        """Within it, batches are answered under a method (None: by the untouched model)."""
        ...

    def sizes(self, items: Sequence[Item]) -> Sequence[PromptSizes]:
        """How long the prompts of items are."""
        ...

    def score(self, answers: Mapping[str, str]) -> Mapping[str, Mapping[str, float]]:
        """Named scores per item id, from the answers to all items; what the metric adds up is among them."""
        ...


def task_fingerprint(task: Task) -> str:
    """A hash of all that is asked and of how it is scored."""
    digest = hashlib.sha256(repr(task.metric).encode())
    for item in task.items:
        digest.update(
            json.dumps(
                [item.id, item.question, item.target, item.unit, item.part, item.tags], default=str
            ).encode()
        )
        digest.update(item.content.encode())
    return digest.hexdigest()[:16]


def check_items(task: Task) -> None:
    """Refuse a task that asks nothing, or whose ids are not unique.

    Raises:
        SparseSightError: naming the task.
    """
    ids = [item.id for item in task.items]
    if not ids:
        raise SparseSightError(f"task {task.name!r} has no questions: check its data and --limit")
    if len(set(ids)) != len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise SparseSightError(f"task {task.name!r} has two questions with the id {twice!r}")


def check_join(task: str, runs: Mapping[str, Sequence[Sample]]) -> None:
    """Refuse to compare runs that did not answer the same questions.

    Args:
        task: for the message.
        runs: samples by the name of the run.

    Raises:
        SparseSightError: naming two runs and the first sample that one of them lacks or knows otherwise.
    """
    (first, reference), *others = runs.items()
    known = _by_id(task, first, reference)
    for name, samples in others:
        mine = _by_id(task, name, samples)
        for lacking, having, missing in (
            (name, first, known.keys() - mine),
            (first, name, mine.keys() - known),
        ):
            if missing:
                raise SparseSightError(
                    f"{task}: {lacking!r} lacks {len(missing)} samples that {having!r} has, the first is "
                    f"{min(missing)!r}: run both on the same questions"
                )
        for key, sample in mine.items():
            there = known[key]
            for what in ("target", "question", "unit", "part", "tags"):
                if getattr(sample, what) != getattr(there, what):
                    raise SparseSightError(
                        f"{task}: {first!r} and {name!r} disagree on the {what} of sample {key!r} "
                        f"({getattr(there, what)!r} and {getattr(sample, what)!r}): run both on the same data"
                    )


def _by_id(task: str, name: str, samples: Sequence[Sample]) -> dict[str, Sample]:
    known = {sample.id: sample for sample in samples}
    if len(known) != len(samples):
        raise SparseSightError(f"{task}: {name!r} has {len(samples) - len(known)} samples twice")
    return known
