"""HoloV: every part of the picture gets a share of the budget, by attention and by the variance of its tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from .. import ops
from ..core.budget import Retain, StageSizes
from ..core.facts import Meaning
from ..core.fields import is_number
from ..core.method import ANY_PICTURE, PreDecoderMethod
from ..core.stage import StageInput
from ..errors import SparseSightError

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class HoloV(PreDecoderMethod):
    """Split the visual tokens into crops; a crop's share of the budget is proportional to its mean score.

    Zou et al., "Don't Just Chase 'Highlighted Tokens' in MLLMs: Revisiting Visual Holistic Context Retention",
    arXiv:2510.02912, section 3. A token's score is the attention of the vision tower's class token, plus ``balance``
    times the variance of its similarity to the others of its crop, scaled to the crop's attention.

    Attributes:
        crops: number of runs of equal length, in raster order, that the tokens are split into. Released: 16, of 36
            tokens.
        balance: weight of the variance. Released: 0.09.
        by_attention: rank within a crop by attention only, as the released code does. As the variance is scaled to the
            crop's mean attention, it then also cancels out of the shares, and diversity has little effect.

    Different: if a crop's share exceeds the crop, the rest goes to the other crops in proportion (the released code
    pads with zeros); the variance is over the other tokens (the released code includes the token itself, with
    similarity zero). The paper was known only through summaries and the released code. The recall of dropped tokens
    inside the decoder is not implemented. :meth:`published` renumbers positions.
    """

    crops: int = 16
    balance: float = 0.09
    by_attention: bool = False

    name: ClassVar[str] = "holov"
    when: ClassVar[str] = "crowded pictures: every crop gets a share"
    meaning: ClassVar[Meaning] = Meaning("order of selection, crop by crop")
    published_at: ClassVar[Sequence[Retain]] = range(1, ANY_PICTURE)
    requires_vision: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.crops, bool) or not isinstance(self.crops, Integral) or self.crops < 1:
            raise SparseSightError(f"crops={self.crops!r}: a count of at least 1")
        if not is_number(self.balance) or self.balance < 0:
            raise SparseSightError(f"balance={self.balance!r}: a number of at least 0")

    @classmethod
    def published(cls, retain: int = 64) -> HoloV:
        """As released for LLaVA-1.5."""
        return cls(retain, positions="compact", by_attention=True, judged_by="prompt")

    def score(self, stage: StageInput) -> Float[Tensor, "b v"]:
        valid, given = stage.visual, stage.tower.attention
        b, v = valid.shape
        crops = ops.even_runs(valid, self.crops)
        inside, size = crops.exists.flatten(0, 1), crops.exists.sum(2)
        given = ops.gather_rows(given, crops.column.flatten(1)).view(inside.shape)
        attention = given.clamp(min=0)
        features = ops.gather_rows(stage.features(), crops.column.flatten(1)).unflatten(
            1, crops.exists.shape[1:]
        )
        variance = ops.likeness_variance(features.flatten(0, 1), inside)
        count = size.flatten()[:, None].clamp(min=1)

        def mean(x: Tensor) -> Tensor:  # in fp64: equal crops stay equal in any batch
            return (x.double().masked_fill(~inside, 0).sum(1, keepdim=True) / count).float()

        scale = mean(attention) / mean(variance).clamp(min=torch.finfo(torch.float32).tiny)
        score = attention + self.balance * scale * variance
        share = ops.apportion(mean(score).view(size.shape), size, self.counts(stage).keep)
        score = attention if self.by_attention else score
        score = score.masked_fill(given.isneginf(), -math.inf)
        chosen = inside & (ops.ranks(score, inside) < share.flatten()[:, None])
        # Selected tokens come first, ordered by score; a token without a patch comes last in its crop.
        whole = score.new_full((b, v + 1), 0.0)
        column = crops.column.masked_fill(~crops.exists, v).flatten(1)
        whole = whole.scatter(1, column, score.view(b, -1))[:, :v]
        first = torch.zeros(b, v + 1, dtype=torch.bool, device=valid.device)
        first = first.scatter(1, column, chosen.view(b, -1))[:, :v]
        place = ops.ranks(whole, valid)
        return -torch.where(first, place, valid.sum(1, keepdim=True) + place).float()

    def overhead(self, sizes: StageSizes) -> int:
        """Every pair of a crop's tokens compared once, without the tower's row of attention."""
        return sizes.tokens_in * -(-sizes.tokens_in // self.crops) * sizes.hidden
