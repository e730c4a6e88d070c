"""PriorTR: what the question adds to the attention that the picture gets without one.

Chen et al., "Accelerating Multimodal Large Language Models with Prior-Corrected Token Reduction", arXiv:2606.24156.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from ..core.budget import Retain, StageSizes
from ..core.facts import Meaning
from ..core.method import Method
from ..core.stage import StageInput

if TYPE_CHECKING:
    from jaxtyping import Float

TINY = 1e-10


@dataclass(frozen=True)
class PriorTR(Method):
    """Keep the visual tokens that the last token attends to more than the first text token after the picture does.

    The score is ``p log(p / q)``. ``p`` is the attention of the last text token to the visual tokens, ``q`` that of the
    first text token after the picture, which in a causal decoder sees nothing of the question: both averaged over heads
    and scaled to sum to one. So one forward gives both.

    Faithful: layer (the third, so it prunes after layer 2), score, last token as the reader of the question, kept
    positions. Different: the paper's probe is a token of its own or the separator after the picture (a newline in
    LLaVA's prompts); here it is whatever token comes first after the picture, which in a prompt without a separator is
    the question's first word. With a single text token ``p`` and ``q`` are the same, and the earlier tokens stay. Where
    the question comes before the picture, the probe has seen part of it, and scores say little.
    """

    name: ClassVar[str] = "priortr"
    when: ClassVar[str] = "models whose last token attends to the same places whatever the question is"
    meaning: ClassVar[Meaning] = Meaning("attention that the question adds")
    published_at: ClassVar[Sequence[Retain]] = (192, 128, 64)
    depths: ClassVar[tuple[int, ...]] = (2,)
    requires_raters: ClassVar[bool] = False

    @classmethod
    def published(cls, tokens: int = 192) -> PriorTR:
        """192, 128 or 64 of LLaVA-1.5's 576 tokens after the third layer."""
        return cls((tokens,), (2,), judged_by="prompt")

    def score(self, stage: StageInput) -> Float[Tensor, "b v"]:
        at = torch.arange(stage.text.shape[1], device=stage.text.device)
        first = at == stage.text.int().argmax(1, keepdim=True)
        p, q = (self._distribution(stage, rows) for rows in (stage.last_text(), first))
        return p * ((p + TINY) / (q + TINY)).log()

    def _distribution(self, stage: StageInput, row: Tensor) -> Float[Tensor, "b v"]:
        attention, _ = stage.attention.only(row, at_most=1)
        received = attention.mean_attention()[:, -1].masked_fill(~stage.visual, 0)
        return received / received.sum(1, keepdim=True).clamp(min=TINY)

    def overhead(self, sizes: StageSizes) -> int:
        """Two rows of attention."""
        return 2 * sizes.keys * sizes.width
