"""PyramidDrop: fewer visual tokens in each deeper stage.

Xing et al., "PyramidDrop: Accelerating Your Large Vision-Language Models via Pyramid Visual Redundancy Reduction",
arXiv:2410.17247, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

from ..core.budget import Retain, Schedule, plan, pruning_layers
from ..core.fields import is_number
from ..core.method import Method
from ..errors import SparseSightError
from .last_token import LastToken


@dataclass(frozen=True)
class PyramidDrop(LastToken):
    """Stages of equal depth; each keeps the same fraction, the tokens that the last token attends to most.

    Attributes:
        ratio: the fraction that every stage keeps, published 0.5; ``retain`` is not used then. None: the fraction with
            which the average over the layers meets ``retain``.

    Faithful: three stages at a quarter, half and three quarters of the decoder, geometric counts, softmax attention of
    the last instruction token averaged over heads. Different: the attention is that of the stage's last layer, while
    the released code applies the next layer's projections to its output; and ``positions="original"`` (published:
    compact, which :meth:`published` restores).

    With the published layers and ratio, LLaVA-1.5's 576 tokens become 254 on average. A much smaller budget cannot be
    met there, as the first quarter of the decoder processes every token; :meth:`with_budget` moves the stages to
    earlier layers.
    """

    ratio: float | None = None

    name: ClassVar[str] = "pyramiddrop"
    when: ClassVar[str] = "a baseline that thins out in stages"
    control: ClassVar[bool] = False
    published_at: ClassVar[Sequence[Retain]] = ()
    depths: ClassVar[tuple[int, ...]] = (7, 15, 23)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ratio is not None and (not is_number(self.ratio) or not 0 < self.ratio < 1):
            raise SparseSightError(
                f"ratio={self.ratio!r}: a fraction between 0 and 1, or None to go by retain"
            )

    @classmethod
    def published(cls, ratio: float = 0.5) -> PyramidDrop:
        """Half of the tokens are dropped before layers 8, 16 and 24 (counted from zero)."""
        return cls(1.0, (7, 15, 23), "compact", ratio=ratio, judged_by="prompt")

    def plan(self, visual: int, num_layers: int, layers: tuple[int, ...]) -> Schedule:
        ratio = self.ratio
        if ratio is None:
            wanted = super().plan(
                visual, num_layers, layers
            )  # refuses an impossible budget, with the possible range
            if isinstance(self.retain, tuple) or not wanted.stages:
                return wanted
            ratio = _ratio_for(self.retain, visual, num_layers, layers)
            counts = [round(visual * ratio ** (i + 1)) for i in range(len(layers))]
        else:
            counts = [
                int(visual * ratio ** (i + 1)) for i in range(len(layers))
            ]  # rounded down, as published
        return plan(
            tuple(max(count, 1) for count in counts), visual, num_layers, layers, always_drop=self.always_drop
        )

    def with_budget(self, retain: Retain, visual: int, num_layers: int) -> Method:
        """The deepest stages of equal depth that meet the budget and keep at least half of their tokens.

        Tried from the published quarter of the decoder down to one layer per stage; a budget that is still too small
        gets stages of one layer and a smaller fraction.
        """
        fitted = replace(self, retain=retain, ratio=None)
        if isinstance(retain, tuple):
            return fitted
        layers = self.layers or pruning_layers(self.depths, num_layers)
        if _ratio_for(retain, visual, num_layers, layers) >= 0.5:
            return fitted
        for depth in range(max(num_layers // 4, 1), 0, -1):
            layers = (depth - 1, 2 * depth - 1, 3 * depth - 1)
            if _ratio_for(retain, visual, num_layers, layers) >= 0.5:
                break
        return replace(fitted, layers=layers)


def _ratio_for(retain: int | float, visual: int, num_layers: int, layers: tuple[int, ...]) -> float:
    """The fraction that every stage must keep to meet ``retain``, counting the tokens that leave each layer."""
    share = retain if isinstance(retain, float) else retain / visual
    spans = [b - a for a, b in pairwise((0, *layers, num_layers))]
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        mean = sum(span * middle**i for i, span in enumerate(spans)) / num_layers
        low, high = (middle, high) if mean < share else (low, middle)
    return high
