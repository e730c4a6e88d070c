"""Last token: the control that shows what choosing raters is worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from .. import ops
from ..core.budget import StageSizes
from ..core.method import Method
from ..core.stage import StageInput

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class LastToken(Method):
    """Keep what the last text token attends to, averaged over heads, at SparseVLM's layers and budgets.

    The last token of a prompt predicts the answer, and most methods inside the language model ask it alone (FastV,
    PyramidDrop). No paper publishes this combination; it differs from SparseVLM without recycling in who rates.
    """

    name: ClassVar[str] = "last-token"
    requires_raters: ClassVar[bool] = False

    def score(self, stage: StageInput) -> Float[Tensor, "b v"]:
        attention = stage.attention
        b, h, _, d = attention.query.shape
        row = stage.last_text().int().argmax(1)[:, None, None, None]  # this row alone is computed
        query = attention.query.gather(2, row.expand(-1, h, -1, d))
        mask = attention.mask.expand(b, -1, -1, -1)
        if mask.shape[2] > 1:
            mask = mask.gather(2, row.expand(-1, mask.shape[1], -1, mask.shape[3]))
        seen = ops.head_mean(query, attention.key, mask, attention.scale, attention.softcap)[:, 0]
        return seen.gather(1, attention.key_column)

    def overhead(self, sizes: StageSizes) -> int:
        return sizes.keys * sizes.width
