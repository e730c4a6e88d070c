"""CDPruner: diverse tokens, conditioned on the question.

Zhang et al., "Beyond Attention or Similarity: Maximizing Conditional Diversity for Token Pruning in MLLMs",
arXiv:2506.10967, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from .. import ops
from ..core.budget import Retain, StageSizes
from ..core.facts import Meaning
from ..core.method import PreDecoderMethod
from ..core.stage import StageInput
from ..errors import SparseSightError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


@dataclass(frozen=True)
class CDPruner(PreDecoderMethod):
    """Before the language model, keep the most probable subset of a determinantal point process, found greedily.

    Its kernel is ``diag(r) S diag(r)``: ``S`` the cosine similarity of the projected visual tokens, ``r`` their
    relevance to the question, scaled to [0, 1].

    Attributes:
        guide: which cosine similarity ``r`` is. ``"text-tower"``, as published for LLaVA: between a token's patch and
            the question, in the space of the vision tower's CLIP. A vision-language model lacks CLIP's text tower: pass
            it as ``sparsify(..., text_tower=...)``. ``"language-model"``, which needs nothing else: between a visual
            token and the question in the language model's own space, averaged over the question's tokens.
        opposite: treat the tokens least similar to the question as the most relevant, as the released code does with
            CLIP.

    Faithful (:meth:`published`, to the authors' code): patches of the layer whose output goes to the language model,
    with CLIP's last normalisation and projection; the negative cosine; kernel, greedy inference, renumbered positions.
    Different: in the released code every crop keeps the same number of tokens; here a prompt's pictures compete for one
    budget (``per_frame=True`` gives each its own). Its relevance is scaled over all crops of a call and raised by 1e-6;
    here it is scaled over the visual tokens of a sample, so that batching changes nothing, and the least relevant token
    gets 0. It keeps the tokens that end a row of patches in addition to the budget; here they are dropped first. It
    splits a question that is too long for the text tower at its window; here each part is a complete text.
    """

    guide: Literal["language-model", "text-tower"] = "language-model"
    opposite: bool = False

    name: ClassVar[str] = "cdpruner"
    when: ClassVar[str] = "small budgets: similarity to the question and variety in one kernel"
    meaning: ClassVar[Meaning] = Meaning("order of selection by relevance and variety")
    published_at: ClassVar[Sequence[Retain]] = (128, 64, 32)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.guide not in ("language-model", "text-tower"):
            raise SparseSightError(f"guide={self.guide!r}: use 'language-model' or 'text-tower'")

    @classmethod
    def published(cls, retain: int = 64) -> CDPruner:
        """As released for LLaVA-1.5, with 128, 64 or 32 of its 576 tokens; it needs CLIP's text tower."""
        return cls(retain, positions="compact", guide="text-tower", opposite=True, judged_by="prompt")

    @property
    def requires_text_tower(self) -> bool:  # type: ignore[override]
        return self.guide == "text-tower"

    @property
    def requires_vision(self) -> bool:  # type: ignore[override]
        return self.requires_text_tower

    def score(self, stage: StageInput) -> Float[Tensor, "b v"]:
        counts = self.counts(stage)
        place = ops.greedy_dpp_map(
            stage.features(),
            self.relevance(stage),
            stage.visual,
            counts.keep,
            max(counts.tokens_out),
            rest=self.per_frame,
        )
        return -place.float()

    def relevance(self, stage: StageInput) -> Float[Tensor, "b v"]:
        """The relevance of every visual token to the question, in [0, 1]; all ones if it is the same for all."""
        if self.requires_text_tower:
            likeness = stage.question_relevance
            known = stage.visual & likeness.isfinite()  # the others have no patch
        else:
            likeness, known = stage.question_similarity, stage.visual
        return _stretched(-likeness if self.opposite else likeness, known)

    def overhead(self, sizes: StageSizes) -> int:
        """Relevance in the language model's space, similarities and factor, without the text tower."""
        relevance = 0 if self.requires_text_tower else (sizes.tokens_in + sizes.text) * sizes.hidden
        factor = sizes.keep * (sizes.keep + 1) // 2 * sizes.tokens_in
        return relevance + sizes.keep * sizes.tokens_in * sizes.hidden + factor


def _stretched(x: Float[Tensor, "b v"], known: Bool[Tensor, "b v"]) -> Float[Tensor, "b v"]:
    """Scaled from 0 for the smallest of a sample to 1 for the largest; 1 if all are the same, 0 where not known."""
    low = x.masked_fill(~known, math.inf).amin(1, keepdim=True)
    span = x.masked_fill(~known, -math.inf).amax(1, keepdim=True) - low
    return torch.where(span > 0, (x - low) / span, 1).masked_fill(~known, 0)
