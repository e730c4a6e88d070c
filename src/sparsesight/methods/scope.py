"""SCOPE: tokens that cover the picture, weighted by the attention of the vision tower's class token.

Deng et al., "SCOPE: Saliency-Coverage Oriented Token Pruning for Efficient Multimodal LLMs", arXiv:2510.24214.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from .. import ops
from ..core.budget import Retain, StageSizes
from ..core.facts import Meaning
from ..core.fields import is_number
from ..core.method import PreDecoderMethod
from ..core.stage import StageInput
from ..errors import SparseSightError

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class SCOPE(PreDecoderMethod):
    """Before the language model, one by one, keep the token that adds most coverage times its attention.

    A set of tokens ``S`` covers token ``i`` by ``c_i(S) = max(0, max_{j in S} cos(x_i, x_j))``. Token ``j`` adds
    ``sum_i max(0, cos(x_i, x_j) - c_i(S))``, multiplied by ``a_j ** alpha``, ``a`` the attention of the class token.

    Attributes:
        alpha: exponent of the attention. Released: 1. 0: coverage alone.

    Faithful: coverage, gain, their product, greedy order. Different: tokens are compared after the projector, not
    before it; a prompt's pictures compete for one budget (``per_frame=True`` gives each its own); attention is
    averaged over heads, not summed, which changes nothing; ``positions="original"`` (:meth:`published` renumbers
    them). A token without a patch can stay only if all others do.
    """

    alpha: float = 1.0

    name: ClassVar[str] = "scope"
    when: ClassVar[str] = "small budgets: coverage of the picture, led by the vision tower"
    meaning: ClassVar[Meaning] = Meaning("order of selection by coverage of the picture")
    published_at: ClassVar[Sequence[Retain]] = (192, 128, 64)
    requires_vision: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_number(self.alpha) or self.alpha < 0:
            raise SparseSightError(f"alpha={self.alpha!r}: an exponent of at least 0")

    @classmethod
    def published(cls, retain: int = 192) -> SCOPE:
        """As released for LLaVA-1.5, with 192, 128 or 64 of its 576 tokens."""
        return cls(retain, positions="compact", judged_by="prompt")

    def score(self, stage: StageInput) -> Float[Tensor, "b v"]:
        counts = self.counts(stage)
        # A token without a patch has an attention of -inf; it covers nothing.
        weight = stage.tower.attention.clamp(min=0).pow(self.alpha) * stage.tower.attention.isfinite()
        place = ops.coverage_ranks(
            ops.cosine_coverage(stage.features(), stage.visual),
            weight,
            stage.visual,
            counts.keep,
            max(counts.tokens_out),
        )
        return -place.float()

    def overhead(self, sizes: StageSizes) -> int:
        """Every pair of tokens compared once, and the gains of each step, without the tower's row of attention."""
        return sizes.tokens_in**2 * (sizes.hidden + sizes.keep)
