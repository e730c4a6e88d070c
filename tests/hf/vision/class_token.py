"""A method that keeps what the vision tower attends to, and its choice by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from sparsesight import (
    Compose,
    Method,
    SparseVLMPlus,
)
from sparsesight.core.budget import BEFORE
from sparsesight.core.stage import StageInput
from tests.hf.vision.test_reader import seen_by, visual_of


@dataclass(frozen=True)
class ClassToken(Method):
    """Keep what the vision tower looks at."""

    name: ClassVar[str] = "class-token"
    depths: ClassVar[tuple[int, ...]] = (BEFORE,)
    requires_attention: ClassVar[bool] = False
    requires_vision: ClassVar[bool] = True

    def score(self, stage: StageInput) -> Tensor:
        assert stage.vision is not None
        return stage.vision.attention


METHOD = ClassToken(0.4)
BOTH = Compose(ClassToken(0.6), SparseVLMPlus(0.6))
LATER = ClassToken((20, 12, 6), layers=(BEFORE, 1, 4))
SAMPLES = range(4)  # one picture, two, none, one


def best(built: Any, prompt: Any, counts: list[int]) -> list[list[int]]:
    """The visual tokens of each sample that its tower looks at most."""
    vision, visual = seen_by(built, prompt), visual_of(built, prompt)
    each = [row[mask] for row, mask in zip(vision.attention, visual, strict=True)]
    return [
        sorted(x.argsort(descending=True, stable=True)[:n].tolist())
        for x, n in zip(each, counts, strict=True)
    ]


def left(run: Any) -> int:
    """Pictures that this thread still knows."""
    local = run._hooks.vision.local
    return len(local.tokens) + len(local.patches) + len(local.read)
