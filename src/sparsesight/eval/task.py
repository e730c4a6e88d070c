"""What a task is to a sweep: items that are asked in batches, answered at a cost, and scored one by one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import SparseSightError
from .costs import Cost

if TYPE_CHECKING:
    from ..equal_cost import Prompt
    from ..methods import Method
    from .metrics import Metric


@dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
        id: unique within the task.
        question, target: as they are written to the samples; the target is JSON-ready.
        unit: items of one unit are resampled together (a picture, a scene); by default the item is its own.
        part: the set or subtask it belongs to, for metrics that are made of several.
        tags: groups of questions that are also reported on their own.
        request: what the task's own answering takes.
    """

    id: str
    question: str
    target: Any
    unit: str = ""
    part: str = ""
    tags: tuple[str, ...] = ()
    request: Any = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Answer:
    """What the model said to one item. ``prefill_ms``, where measured, is the item's share of its batch."""

    text: str
    cost: Cost
    prefill_ms: float | None = None


@dataclass(frozen=True)
class Sample:
    """An answered and scored item: one line of a samples file."""

    id: str
    question: str
    target: Any
    answer: str
    scores: Mapping[str, float]
    cost: Cost
    unit: str
    part: str = ""
    tags: tuple[str, ...] = ()

    @classmethod
    def of(cls, item: Item, answer: Answer, scores: Mapping[str, float]) -> Sample:
        return cls(
            id=item.id,
            question=item.question,
            target=item.target,
            answer=answer.text,
            scores=dict(scores),
            cost=answer.cost,
            unit=item.unit or item.id,
            part=item.part,
            tags=item.tags,
        )

    def to_line(self) -> str:
        """JSON without a line break."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_line(cls, line: str) -> Sample:
        """The inverse of :meth:`to_line`."""
        data = json.loads(line)
        return cls(**{**data, "tags": tuple(data["tags"])})


Answering = Callable[[Sequence[Item]], Sequence[Answer]]


class Task(Protocol):
    """Items with a way to answer and to score them; a sweep knows no more of models and harnesses."""

    @property
    def name(self) -> str: ...

    @property
    def metric(self) -> Metric: ...

    @property
    def items(self) -> Sequence[Item]: ...

    def answering(self, method: Method | None) -> AbstractContextManager[Answering]:
        """Within it, batches are answered under a method (None: by the untouched model)."""
        ...

    def sizes(self, items: Sequence[Item]) -> Sequence[Prompt]:
        """How long the prompts of items are."""
        ...

    def score(self, answers: Mapping[str, str]) -> Mapping[str, Mapping[str, float]]:
        """Named scores per item id, from the answers to all items; what the metric adds up is among them."""
        ...


def fingerprint(task: Task) -> str:
    """A hash of all that is asked and of how it is scored."""
    digest = hashlib.sha256(repr(task.metric).encode())
    for item in task.items:
        digest.update(
            json.dumps(
                [item.id, item.question, item.target, item.unit, item.part, item.tags], default=str
            ).encode()
        )
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
