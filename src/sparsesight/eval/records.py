"""A question of a task, the model's answer, and the scored sample that is stored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import SparseSightError, brief
from ..files import parse_json
from .costs import SampleCost

# Types of fields as they are read back: int and float are numbers, a float may be written as a whole one.
_OPTIONAL = float | None
_COST: dict[str, Any] = {
    **dict.fromkeys(("equal_tokens", "equal_tokens_entering"), float),
    **dict.fromkeys(("visual_tokens", "text_tokens", "macs_dense", "macs_sparse", "macs_scoring"), int),
    **dict.fromkeys(("kv_bytes_dense", "kv_bytes_sparse"), int),
    "kept": list,
    "note": str,
}
_SAMPLE: dict[str, Any] = {
    **dict.fromkeys(("id", "question", "answer", "unit", "part"), str),
    "target": object,
    "scores": dict,
    "cost": dict,
    "tags": list,
}
LARGEST = 1e30  # more than any count of operations


def check_fields(data: Any, kinds: Mapping[Any, Any], where: str) -> None:
    """Refuse what was read from a file if it has other fields than were written, or of other types.

    Args:
        data: the object.
        kinds: type of each field; whole numbers are not negative, and all numbers finite and of a sensible size.
        where: file and line, for the message.

    Raises:
        SparseSightError: naming ``where`` and the field.
    """
    if not isinstance(data, dict) or data.keys() != kinds.keys():
        raise SparseSightError(f"{where} is damaged (other fields than {brief(list(kinds))})")
    for name, kind in kinds.items():
        value = data[name]
        if kind in (int, float, _OPTIONAL):
            if value is None and kind is _OPTIONAL:
                continue
            fits = isinstance(value, int) if kind is int else isinstance(value, int | float)
            fits = (
                fits and not isinstance(value, bool) and (0 if kind is int else -LARGEST) <= value <= LARGEST
            )
        else:
            fits = isinstance(value, kind)
        if not fits:
            raise SparseSightError(f"{where} is damaged ({name} is {brief(value)})")


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
        content: what else decides on the answer, for the task's fingerprint.
    """

    id: str
    question: str
    target: Any
    unit: str = ""
    part: str = ""
    tags: tuple[str, ...] = ()
    request: Any = field(default=None, compare=False, repr=False)
    content: str = ""


@dataclass(frozen=True)
class Answer:
    """What the model said to one item.

    Attributes:
        text: the answer.
        cost: of its prefill.
        prefill_ms: where measured, the item's share of its batch.
        figures: scores that are known with the answer, beside those of the task.
    """

    text: str
    cost: SampleCost
    prefill_ms: float | None = None
    figures: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, data: Any, where: str) -> Answer:
        """The inverse of ``asdict``.

        Raises:
            SparseSightError: naming ``where``, if it is none.
        """
        check_fields(data, {"text": str, "cost": dict, "prefill_ms": _OPTIONAL, "figures": dict}, where)
        check_fields(data["cost"], _COST, where)
        check_fields(data["figures"], dict.fromkeys(data["figures"], float), where)
        return cls(**data)


@dataclass(frozen=True)
class Sample:
    """An answered and scored item: one line of a samples file."""

    id: str
    question: str
    target: Any
    answer: str
    scores: Mapping[str, float]
    cost: SampleCost
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
    def from_line(cls, line: str, where: str = "a sample") -> Sample:
        """The inverse of :meth:`to_line`.

        Raises:
            SparseSightError: naming ``where``, if it is none.
        """
        data = parse_json(line, dict, where)
        check_fields(data, _SAMPLE, where)
        check_fields(data["cost"], _COST, where)
        check_fields(data["scores"], dict.fromkeys(data["scores"], float), where)
        check_fields(dict(enumerate(data["tags"])), dict.fromkeys(range(len(data["tags"])), str), where)
        return cls(**{**data, "tags": tuple(data["tags"])})
