"""Made-up samples and a made-up benchmark, for tests that need no model."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sparsesight.equal_cost import PromptSizes
from sparsesight.eval.costs import SampleCost
from sparsesight.eval.metrics import Mean, Metric
from sparsesight.eval.records import Answer, Item, Sample
from sparsesight.eval.task import Answering
from sparsesight.methods import Method


def cost(macs: int = 100, dense: int = 400) -> SampleCost:
    return SampleCost(
        visual_tokens=576,
        text_tokens=40,
        equal_tokens=64.0,
        equal_tokens_entering=70.5,
        macs_dense=dense,
        macs_sparse=macs,
        macs_scoring=1,
        kv_bytes_dense=dense * 10,
        kv_bytes_sparse=macs * 10,
        kept=[60],
        note="",
    )


def sample(id: str, *, unit: str = "", part: str = "", target: Any = "yes", **scores: float) -> Sample:
    return Sample(id, f"question {id}", target, "answer", scores, cost(), unit or id, part)


def marked(marks: Sequence[int], unit: Sequence[Any] | None = None, tags: Sequence[str] = ()) -> list[Sample]:
    """Samples that are right or wrong."""
    units = range(len(marks)) if unit is None else unit
    return [
        Sample(f"{i:03}", "q", "t", "a", {"correct": float(mark)}, cost(), str(u), "", tuple(tags))
        for i, (mark, u) in enumerate(zip(marks, units, strict=True))
    ]


@dataclass
class Made:
    """Questions without pictures: which ones a budget answers rightly follows from their numbers.

    Attributes:
        pause: seconds a batch takes.
        asked: batches that were answered, as (label of the method, ids).
    """

    name: str = "made"
    count: int = 40
    pause: float = 0.0
    metric: Metric = field(default_factory=Mean)
    unit: str = "unit"
    asked: list[tuple[str, list[str]]] = field(default_factory=list)

    @property
    def items(self) -> list[Item]:
        return [
            Item(
                f"q{i:03}",
                f"What is {i}?",
                str(i),
                unit=f"u{i // 4}",
                tags=("even" if i % 2 == 0 else "odd",),
            )
            for i in range(self.count)
        ]

    @contextmanager
    def answering(self, method: Method | None) -> Iterator[Answering]:
        label = "dense" if method is None else f"{method.name}@{method.retain}"

        def answer(items: Sequence[Item]) -> list[Answer]:
            time.sleep(self.pause)
            self.asked.append((label, [item.id for item in items]))
            return [self._one(item, method) for item in items]

        yield answer

    def _one(self, item: Item, method: Method | None) -> Answer:
        number = int(item.target)
        budget = 400 if method is None else int(method.retain)
        right = (number * 37) % 400 < budget * 0.9
        return Answer(item.target if right else "no idea", cost(macs=budget), prefill_ms=budget / 10)

    def sizes(self, items: Sequence[Item]) -> list[PromptSizes]:
        return [PromptSizes(576, 20, 5) for _ in items]

    def score(self, answers: Mapping[str, str]) -> dict[str, dict[str, float]]:
        assert set(answers) == {item.id for item in self.items}
        return {item.id: {"correct": float(answers[item.id] == item.target)} for item in self.items}
