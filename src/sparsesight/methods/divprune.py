"""DivPrune: keep tokens that are far apart, independent of the question.

Alvar et al., "DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models", arXiv:2503.02175, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from .. import ops
from ..core.budget import BEFORE, Retain, StageSizes
from ..core.facts import Meaning
from ..core.method import PreDecoderMethod
from ..core.stage import StageInput

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class DivPrune(PreDecoderMethod):
    """Before the language model, greedily enlarge the smallest cosine distance between kept tokens.

    The first token is the one whose nearest neighbour is farthest; each further one is the token whose nearest kept
    token is farthest.

    Faithful: pruning before the language model, distance, greedy order. Different: ``positions="original"`` (published:
    compact, since tokens are dropped before they get positions; :meth:`published` restores it). Pictures of one prompt
    compete for the budget unless ``per_frame=True``.
    """

    name: ClassVar[str] = "divprune"
    when: ClassVar[str] = "before the question is known, without a vision tower's attention: variety alone"
    meaning: ClassVar[Meaning] = Meaning("order of selection by variety")
    published_at: ClassVar[Sequence[Retain]] = (0.098,)

    @classmethod
    def published(cls, ratio: float = 0.098) -> DivPrune:
        """The released default: 9.8 % of the tokens, 56 of LLaVA-1.5's 576."""
        return cls(ratio, (BEFORE,), "compact", judged_by="prompt")

    def score(self, stage: StageInput) -> Float[Tensor, "b v"]:
        counts = self.counts(stage)
        place = ops.farthest_point_ranks(
            stage.features(), stage.visual, counts.keep, max(counts.tokens_out), rest=self.per_frame
        )
        return -place.float()

    def overhead(self, sizes: StageSizes) -> int:
        return (sizes.tokens_in + sizes.keep) * sizes.tokens_in * sizes.hidden
