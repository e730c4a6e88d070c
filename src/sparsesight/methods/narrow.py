"""Narrow: in deep layers, keep the tokens that differ most from each other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from .. import ops
from ..core.budget import Retain, StageSizes, pruning_layers
from ..core.facts import Meaning
from ..core.method import Method
from ..core.stage import StageInput

if TYPE_CHECKING:
    from jaxtyping import Float


NARROW_AT = 20  # of 32 layers


def difference_macs(sizes: StageSizes) -> int:
    """Multiply-adds of :func:`ops.greedy_gaussian_map`: mean distance, kernel, Cholesky factor."""
    return (sizes.keep + 1) * sizes.tokens_in * sizes.hidden + sizes.keep * (
        sizes.keep + 1
    ) // 2 * sizes.tokens_in


def _deepest(ratio: float, num_layers: int) -> int:
    """The deepest layer at which a quarter of the tokens can stay if ``ratio`` of them is the average; at least 0."""
    return max(int(num_layers * (ratio - 0.25) / 0.75), 0)


@dataclass(frozen=True)
class Narrow(Method):
    """After layer ``floor(20/32 L)`` keep tokens whose hidden states differ most from those already kept.

    The second half of :class:`Halves`, to be composed with any method before the decoder:
    ``Compose(CDPruner(90), Narrow(64))`` enters the decoder with 90 tokens, 64 on average. A token's value is its
    residual variance given those already selected (:func:`ops.greedy_gaussian_map`). No attention is used. A ratio
    that this depth cannot meet, or would meet with less than a quarter of the tokens, moves the stage to an earlier
    layer.

    That deep layers need fewer visual tokens is known from VTW (Lin et al., arXiv:2405.05803), which drops all of them
    at one layer, and PyramidDrop (arXiv:2410.17247). Not a published method.
    """

    name: ClassVar[str] = "narrow"
    when: ClassVar[str] = "as the last part of a composition with a method before the decoder"
    meaning: ClassVar[Meaning] = Meaning("order of selection by variety")
    depths: ClassVar[tuple[int, ...]] = (NARROW_AT,)
    requires_attention: ClassVar[bool] = False
    requires_raters: ClassVar[bool] = False

    def score(self, stage: StageInput) -> Float[Tensor, "b v"]:
        counts = self.counts(stage)
        place = ops.greedy_gaussian_map(
            stage.features(), stage.visual, counts.keep, max(counts.tokens_out), rest=self.per_frame
        )
        return -place.float()

    def with_budget(self, retain: Retain, visual: int, num_layers: int) -> Method:
        """At its own depth, or at the deepest layer at which the budget leaves a quarter of the tokens."""
        if isinstance(retain, tuple):
            return replace(self, retain=retain)
        ratio = retain if isinstance(retain, float) else retain / visual
        own = (self.layers or pruning_layers(self.depths, num_layers))[0]
        return replace(self, retain=retain, layers=(min(own, _deepest(ratio, num_layers)),))

    def _layers(self, num_layers: int, allowed: tuple[int, ...] | None) -> tuple[int, ...]:
        own = super()._layers(num_layers, allowed)
        if self.layers is not None or not isinstance(self.retain, float):
            return own
        wanted = _deepest(self.retain, num_layers)
        possible = range(num_layers - 1) if allowed is None else allowed
        earlier = [layer for layer in possible if 0 <= layer <= own[0]]
        return (min(earlier, key=lambda layer: (abs(layer - wanted), layer)),)

    def overhead(self, sizes: StageSizes) -> int:
        return difference_macs(sizes)
