"""MMTok: tokens that cover both the question and the picture.

Dong et al., "MMTok: Multimodal Coverage Maximization for Efficient Inference of VLMs", arXiv:2508.18264.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from .. import ops
from ..core.budget import StageSizes
from ..core.facts import Meaning
from ..core.fields import is_number
from ..core.method import PreDecoderMethod
from ..core.stage import StageInput
from ..errors import SparseSightError

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class MMTok(PreDecoderMethod):
    """Before the language model, one by one, keep the token that adds most coverage of text and picture.

    With ``p_ij`` the softmax over visual tokens ``j`` of ``cos(t_i, v_j) / text_temperature`` and ``q_ij`` that of
    ``cos(v_i, v_j) / visual_temperature``, a set ``S`` is worth ``mean_i max_{j in S} p_ij`` over the text tokens plus
    ``alpha mean_i max_{j in S} q_ij`` over the visual ones.

    Attributes:
        alpha: weight of the picture. Released: 0.5. 0: the question alone.
        text_temperature: of the softmax of a text token. Released: 0.02.
        visual_temperature: of the softmax of a visual token. Released: 0.2.

    Faithful: the two coverages, their sum and constants, greedy order. Different: text and visual tokens are compared
    in the language model's own space, while the released code for LLaVA compares them in CLIP's, for which it loads
    CLIP's text tower; the agent that rewrites the question and the removal of padding are not implemented; a prompt's
    pictures compete for one budget (``per_frame=True`` gives each its own). Constants are those of the released code,
    as the paper was known only through summaries. So no setting is called published.
    """

    alpha: float = 0.5
    text_temperature: float = 0.02
    visual_temperature: float = 0.2

    name: ClassVar[str] = "mmtok"
    when: ClassVar[str] = "small budgets: coverage of the question and of the picture"
    meaning: ClassVar[Meaning] = Meaning("order of selection by coverage of question and picture")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_number(self.alpha) or self.alpha < 0:
            raise SparseSightError(f"alpha={self.alpha!r}: a weight of at least 0")
        for name in ("text_temperature", "visual_temperature"):
            value = getattr(self, name)
            if not is_number(value) or value < 1e-4:
                raise SparseSightError(f"{name}={value!r}: a number of at least 0.0001, such as 0.02")

    def score(self, stage: StageInput) -> Float[Tensor, "b v"]:
        counts, visual = self.counts(stage), stage.features()
        cover = [
            ops.softmax_coverage(
                stage.text_features(), visual, stage.text, stage.visual, self.text_temperature
            )
        ]
        if self.alpha:
            own = ops.softmax_coverage(visual, visual, stage.visual, stage.visual, self.visual_temperature)
            cover.append(own * self.alpha)
        place = ops.coverage_ranks(
            torch.cat(cover, 1), stage.visual.float(), stage.visual, counts.keep, max(counts.tokens_out)
        )
        return -place.float()

    def overhead(self, sizes: StageSizes) -> int:
        """Every pair of text or visual token and visual token compared once, and the gains of each step."""
        targets = sizes.text + (sizes.tokens_in if self.alpha else 0)
        return targets * sizes.tokens_in * (sizes.hidden + sizes.keep)
