"""Scorers of visual tokens for the probes, as methods of the library.

The published raters need none: `SparseVLM(recycle=0)` is them.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from sparsesight import SparseSightError
from sparsesight.core.stage import StageInput
from sparsesight.methods import Method, SparseVLM
from sparsesight.scenes.dataset import Example

from .saliency import patch_saliency

MakeMethod = Callable[
    [list[int]], Method
]  # rows of the examples that a batch holds -> the method for that batch


@dataclass(frozen=True)
class AllText(Method):
    """Keep what the text attends to, every text token after the picture alike."""

    name: ClassVar[str] = "all-text"

    def select_raters(self, visual: Tensor, text: Tensor, visual_mask: Tensor, text_mask: Tensor) -> Tensor:
        return text_mask

    def score(self, stage: StageInput) -> Tensor:
        return stage.attention.received(stage.rater).mean(1)


@dataclass(frozen=True)
class LastToken(AllText):
    """Keep what the last token of the prompt attends to (FastV, arXiv:2403.06764)."""

    name: ClassVar[str] = "last-token"

    def select_raters(self, visual: Tensor, text: Tensor, visual_mask: Tensor, text_mask: Tensor) -> Tensor:
        last = torch.zeros_like(text_mask)
        last[:, -1] = True  # padding is on the left
        return last & text_mask


@dataclass(frozen=True)
class VisualMaskSpec(Method):
    """Keep by scores that are known before the model runs.

    Attributes:
        given: float [b, v], a row for each sample of the batch; larger is better.
    """

    given: Tensor | None = field(default=None, repr=False, compare=False)

    name: ClassVar[str] = "given"

    def score(self, stage: StageInput) -> Tensor:
        if self.given is None or self.given.shape[0] != stage.origin.shape[0]:
            shape = None if self.given is None else list(self.given.shape)
            raise SparseSightError(f"given: scores {shape} for a batch of {stage.origin.shape[0]} samples")
        scores = self.given.to(stage.origin.device)
        return scores.gather(1, stage.origin.clamp(min=0))


ATTENTION: dict[str, Callable[..., Method]] = {
    "last token": LastToken,
    "all text": AllText,
    "raters": lambda **where: SparseVLM(recycle=0.0, **where),
}
KNOWN = ("random", "saliency", "relevant")  # what `known_scores` makes
SCORERS = ("random", *ATTENTION, "saliency", "relevant")


def relevant(example: Example) -> np.ndarray:
    """Which patches belong to the objects that the answer rests on: bool [v]."""
    return np.isin(example.scene.owner.ravel(), example.question.objects)


def known_scores(examples: Sequence[Example]) -> dict[str, Tensor]:
    """Scores that need no model, float32 [examples, v] each.

    "random" is drawn from the example's id. "relevant" is the same draw with the relevant patches lifted above all
    others, so that it differs from "random" in nothing else.
    """
    draws = [
        np.random.RandomState(zlib.crc32(e.id.encode())).random_sample(e.scene.owner.size) for e in examples
    ]
    contrast: dict[int, np.ndarray] = {}
    for example in examples:
        if example.scene.seed not in contrast:
            contrast[example.scene.seed] = patch_saliency(example.image)
    rows = {
        "random": draws,
        "saliency": [contrast[example.scene.seed] for example in examples],
        "relevant": [draw + relevant(example) for draw, example in zip(draws, examples, strict=True)],
    }
    return {name: torch.tensor(np.stack(rows[name]), dtype=torch.float32) for name in KNOWN}


def method_maker(scorer: str, depth: int, budget: int, known: dict[str, Tensor]) -> MakeMethod:
    """Prune once, after the first `depth` decoder layers, to exactly `budget` visual tokens.

    A tuple as `retain` is the count of each stage itself; a number would be an average over layers.
    """
    where: dict[str, Any] = {"retain": (budget,), "layers": (depth - 1,)}
    if scorer in ATTENTION:
        method = ATTENTION[scorer](**where)
        return lambda rows: method
    return lambda rows: VisualMaskSpec(given=known[scorer][rows], **where)
