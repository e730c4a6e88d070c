"""Halves: half of the tokens by the question and variety, half by variety alone; fewer of them in deep layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from .. import ops
from ..core.budget import BEFORE, Schedule, StageSizes, plan
from ..core.facts import Meaning
from ..core.fields import is_number
from ..core.stage import Selection, StageInput
from ..errors import SparseSightError
from .narrow import NARROW_AT, difference_macs
from .proportional import Proportional, shared_multiplicity

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

LARGEST = 10.0  # deviations: the favor of single tokens stays finite


@dataclass(frozen=True)
class Halves(Proportional):
    """Keep half by similarity to the question and variety, half by variety alone; a quarter in deep layers.

    A rule of this project that uses no attention, neither the vision tower's nor the decoder's.

    Let ``u_i`` be the unit vectors of the projected visual tokens, ``t`` the mean of the unit vectors of the text that
    scores them, ``z_i`` the similarity ``u_i . t`` in standard deviations from its mean over the visual tokens, ``m``
    the mean of ``|u_i - u_j|**2``, ``k_ij = exp(-|u_i - u_j|**2 / 2 m)`` and
    ``v_i(S) = k_ii - k_iS (k_SS)**-1 k_Si``, the part of token ``i`` that the selected tokens ``S`` say nothing about.

    1. Before the first layer, one by one, keep the token with the largest ``exp(2 z_i) v_i(S)`` until there are
       ``K/2``; then the one with the largest ``v_i(S)`` until there are ``K``.
    2. After layer ``floor(20/32 L)``, keep ``K/4`` of them by ``v`` alone, computed from hidden states.
    3. ``K`` follows from the budget: ``(20/32 + 1/4 * 12/32) K = retain``.

    Attributes:
        asked: share of ``K`` that is selected with similarity to the question. 0: variety alone.
        share: share of ``K`` that stays after the second stage. 1: all of them.
        bandwidth: multiplies ``m`` in the kernel. The smaller it is, the more only near-duplicates count as known.
        proportional: at each stage, a dropped token counts for the kept token whose hidden state has the largest
            cosine with its own, together with those that it stood for (ToMe, arXiv:2210.09461, section 3).

    Sources of the parts: difference as greedy inference of a determinantal point process is CDPruner's
    (arXiv:2506.10967), as max-min distance DivPrune's (arXiv:2503.02175), both with cosines; quality beside
    difference in such a process is that of Kulesza and Taskar (arXiv:1207.6083, section 3.1); half and half is
    VisPruner's (arXiv:2412.01818), by attention; leaving deep layers is VTW's (arXiv:2405.05803) and PyramidDrop's
    (arXiv:2410.17247). Where the question's embeddings say nothing about the picture, half of the tokens are still
    selected by difference.
    """

    asked: float = 0.5
    share: float = 0.25
    bandwidth: float = 1.0

    name: ClassVar[str] = "halves"
    when: ClassVar[str] = "the default: any budget and model family, in transformers and vLLM"
    meaning: ClassVar[Meaning] = Meaning("order of selection by variety", "for variety")
    depths: ClassVar[tuple[int, ...]] = (BEFORE, NARROW_AT)
    requires_attention: ClassVar[bool] = False
    requires_raters: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_number(self.asked) or not 0 <= self.asked <= 1:
            raise SparseSightError(f"asked={self.asked!r}: a share from 0 to 1 of what is kept")
        if not is_number(self.share) or not 0 < self.share <= 1:
            raise SparseSightError(
                f"share={self.share!r}: a share above 0, up to 1, of the first stage's tokens"
            )

        if not is_number(self.bandwidth) or not 0.01 <= self.bandwidth <= 100:
            raise SparseSightError(f"bandwidth={self.bandwidth!r}: a number from 0.01 to 100")

    def plan(self, visual: int, num_layers: int, layers: tuple[int, ...]) -> Schedule:
        wanted = super().plan(visual, num_layers, layers)  # refuses an impossible budget
        if isinstance(self.retain, tuple) or len(layers) != 2 or not wanted.stages:
            return wanted
        total = num_layers * (self.retain * visual if isinstance(self.retain, float) else self.retain)
        # Tokens that leave a layer are counted: all up to the first stage, then `first`, then `second`.
        before = max(layers[0], 0)
        between, behind = layers[1] - before, num_layers - layers[1]
        first = round((total - before * visual) / (between + self.share * behind))
        first = min(max(first, 1), visual)
        second = round((total - before * visual - between * first) / behind)
        second = min(max(second, 1), first)
        return plan((first, second), visual, num_layers, layers, always_drop=self.always_drop)

    def score(self, stage: StageInput) -> Float[Tensor, "b v"]:
        counts, favor, favored = self.counts(stage), None, list[int]()
        if self._asks(stage.index):
            favor = (2 * _deviations(stage.question_similarity, stage.visual)).exp()
            favored = [round(kept * self.asked) for kept in counts.tokens_out]
        place = ops.greedy_gaussian_map(
            stage.features(),
            stage.visual,
            counts.keep,
            max(counts.tokens_out),
            favor,
            favored,
            self.bandwidth,
            rest=self.per_frame,
        )
        return -place.float()

    def select_from_scores(self, stage: StageInput, score: Float[Tensor, "b v"]) -> Selection:
        selection = super().select_from_scores(stage, score)
        if not self._asks(stage.index):
            return selection
        # Pictures of scores show what is asked for; `score` is the order of selection.
        return selection._replace(score=stage.question_similarity, meaning=self._asked())

    def _asked(self) -> Meaning:
        """Of a stage that asks."""
        share = "half" if self.asked == 0.5 else f"{self.asked:.0%}"
        rest = "half" if self.asked == 0.5 else "the rest"
        kept = (
            f"{share} by the question, {rest} for variety"
            if self.asked < 1
            else "by the question and for variety"
        )
        return Meaning("similarity to the question", kept)

    def _asks(self, index: int) -> bool:
        return index == 0 and self.asked > 0

    def multiplicity(self, stage: StageInput, selection: Selection) -> Float[Tensor, "b v"] | None:
        return shared_multiplicity(stage, selection) if self.proportional else stage.multiplicity

    def overhead(self, sizes: StageSizes) -> int:
        """Similarity to the question at the first stage; kernel and factor at both, and which kept token is nearest."""
        asked = (sizes.tokens_in + sizes.text) * sizes.hidden if self._asks(sizes.index) else 0
        nearest = sizes.tokens_in * sizes.keep * sizes.hidden if self.proportional else 0
        return asked + difference_macs(sizes) + nearest


def _deviations(x: Float[Tensor, "b v"], valid: Bool[Tensor, "b v"]) -> Float[Tensor, "b v"]:
    """In standard deviations from the mean of a sample, at most 10 of them; 0 if all are the same, and on padding."""
    count = valid.sum(1, keepdim=True).clamp(min=1)
    x = x.double().masked_fill(~valid, 0)
    apart = (x - x.sum(1, keepdim=True) / count).masked_fill(~valid, 0)
    spread = (apart.square().sum(1, keepdim=True) / count).sqrt()
    # What is below the rounding of a cosine in float32 is none.
    return torch.where(spread > 1e-6, apart / spread, 0).clamp(-LARGEST, LARGEST)
