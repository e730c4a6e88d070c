"""One question of a task, the model's answer to it, and the scored sample that a samples file holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from .costs import Cost


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
