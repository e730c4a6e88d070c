"""VisPruner: half of the tokens by the class token's attention, half by dissimilarity to the others; and FasterVLM."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from .. import ops
from ..core.budget import Retain, StageSizes
from ..core.facts import Meaning
from ..core.fields import is_number
from ..core.method import ANY_PICTURE, PreDecoderMethod
from ..core.stage import StageInput
from ..errors import SparseSightError

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class VisPruner(PreDecoderMethod):
    """Keep the tokens with the most attention from the class token, and of the rest those that are not duplicates.

    Zhang et al., "Beyond Text-Visual Attention: Exploiting Visual Cues for Effective Token Pruning in VLMs",
    arXiv:2412.01818 (v2), section 4: duplicates are removed in rounds of bipartite matching
    (:func:`ops.thinned_places`), which starts in descending order of attention.

    Attributes:
        important: share of the kept tokens that is selected by attention alone. Released: 0.5.
        step: number of duplicates that a round removes, as a count or as a fraction of the visual tokens, rounded up.
            Released: 8, of 576.

    Different: similarity is computed after the projector, not before it; a prompt's pictures compete for one budget
    (``per_frame=True`` gives each its own); ``step`` is the fraction 8/576 by default, so that a long prompt takes no
    more rounds. A token without a patch (a newline) can stay only as one of the dissimilar tokens. :meth:`published`
    renumbers positions, as the released code does.
    """

    important: float = 0.5
    step: int | float = 8 / 576

    name: ClassVar[str] = "vispruner"
    when: ClassVar[str] = "as visionzip, with duplicates left out"
    published_at: ClassVar[Sequence[Retain]] = range(1, ANY_PICTURE)  # its scripts take the number
    requires_vision: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_number(self.important) or not 0 <= self.important <= 1:
            raise SparseSightError(f"important={self.important!r}: a share from 0 to 1 of what is kept")
        low = 1 if isinstance(self.step, Integral) else 1 / 100
        if not is_number(self.step) or self.step < low or (low < 1 and self.step > 1):
            raise SparseSightError(
                f"step={self.step!r}: a count of at least 1 (int) or a fraction from 0.01 to 1 (float)"
            )

    @classmethod
    def published(cls, retain: int = 128) -> VisPruner:
        """As released for LLaVA-1.5: half and half, 8 duplicates per round."""
        return cls(retain, positions="compact", important=0.5, step=8, judged_by="prompt")

    @property
    def meaning(self) -> Meaning:  # type: ignore[override]
        attention = "attention in the vision tower"
        return Meaning(attention if self.important == 1 else f"order by {attention}, then without duplicates")

    def score(self, stage: StageInput) -> Float[Tensor, "b v"]:
        attention = stage.tower.attention
        if self.important == 1:
            return attention
        counts = self.counts(stage)
        visual = stage.visual.sum(1)
        most = stage.visual.shape[1] - min(counts.tokens_out)
        # A bound on the rounds, known to the host. The last ones halve the remaining tokens, if fewer than the step.
        if isinstance(self.step, Integral):
            step = torch.full_like(visual, int(self.step))
            rounds = -(-most // int(self.step)) + int(self.step).bit_length()
        else:
            step = (visual * self.step - 1e-4).ceil().long().clamp(min=1)  # 8.0000001 is 8
            rounds = math.ceil(1 / self.step) + most.bit_length()
        rounds = min(rounds, most)
        held = (counts.keep * self.important).long()
        place = ops.ranks(attention, stage.visual)
        place = ops.thinned_places(stage.features(), place, stage.visual, held, counts.keep, step, rounds)
        return -place.float()

    def overhead(self, sizes: StageSizes) -> int:
        """Every pair of tokens compared once, without the tower's row of attention."""
        return 0 if self.important == 1 else sizes.tokens_in**2 * sizes.hidden


@dataclass(frozen=True)
class FasterVLM(VisPruner):
    """The first version of :class:`VisPruner`: the attention of the class token alone (arXiv:2412.01818v1)."""

    important: float = 1.0

    name: ClassVar[str] = "fastervlm"
    when: ClassVar[str] = "the baseline of visionzip and vispruner"

    @classmethod
    def published(cls, retain: int = 144) -> FasterVLM:
        """With renumbered positions; the paper goes down to 5 %, 29 of LLaVA-1.5's 576 tokens."""
        return cls(retain, positions="compact", judged_by="prompt")
