"""Last token: the control that shows the benefit of selecting raters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from ..core.budget import StageSizes
from ..core.facts import Meaning
from ..core.method import Method
from ..core.stage import StageInput

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class LastToken(Method):
    """Keep what the last text token attends to most, averaged over heads, at SparseVLM's layers and budgets.

    The last token of a prompt predicts the answer, and most methods inside the language model use it alone (FastV,
    PyramidDrop). No paper publishes this combination; it differs from SparseVLM without recycling only in the rater.
    """

    name: ClassVar[str] = "last-token"
    when: ClassVar[str] = "what the last token alone gives, at SparseVLM's layers"
    meaning: ClassVar[Meaning] = Meaning("attention of the last text token")
    control: ClassVar[bool] = True
    requires_raters: ClassVar[bool] = False

    def score(self, stage: StageInput) -> Float[Tensor, "b v"]:
        attention, _ = stage.attention.only(stage.last_text(), at_most=1)
        return attention.mean_attention()[:, -1]

    def overhead(self, sizes: StageSizes) -> int:
        return sizes.keys * sizes.width
