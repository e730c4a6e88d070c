"""FastV: prune half of the picture by the last token's attention in layer 2.

Chen et al., "An Image is Worth 1/2 Tokens After Layer 2: Plug-and-Play Inference Acceleration for Large
Vision-Language Models", arXiv:2403.06764, section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..core.budget import Retain
from .last_token import LastToken


@dataclass(frozen=True)
class FastV(LastToken):
    """After ``K`` layers keep the visual tokens that the last token attends to most, averaged over heads, in layer K.

    Faithful: layer (K = 2 counts from one, so it prunes after layer 1), score, kept rotary positions. Different: the
    paper has K and the fraction R of dropped tokens as parameters, while ``retain`` is the average number of tokens per
    layer, as for every method; and a decoder that has not 32 layers is pruned at the same relative depth.
    :meth:`published` has the paper's numbers.
    """

    name: ClassVar[str] = "fastv"
    when: ClassVar[str] = "the simplest baseline: one stage, by the last token"
    control: ClassVar[bool] = False
    published_at: ClassVar[Sequence[Retain]] = (288, 144)
    depths: ClassVar[tuple[int, ...]] = (1,)

    @classmethod
    def published(cls, tokens: int = 288) -> FastV:
        """K = 2, and ``tokens`` from there on: 288 are R = 50 % of LLaVA-1.5's 576, 144 are R = 75 %."""
        return cls((tokens,), (1,), judged_by="prompt")
