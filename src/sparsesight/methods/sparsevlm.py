"""SparseVLM: text tokens that match the picture rate the visual tokens; the best of the dropped ones are merged.

Zhang et al., "SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model Inference",
arXiv:2410.04417: raters (section 3.2), rank rule (3.3), recycling (3.4). v1.5 fixed the counts per stage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from torch import Tensor

from .. import ops
from ..core.budget import Retain, recycled_counts
from ..core.facts import Meaning
from ..core.fields import is_number
from ..core.stage import Counts, StageInput
from ..errors import SparseSightError
from .proportional import Proportional

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class SparseVLM(Proportional):
    """Keep the visual tokens that the raters attend to most, averaged over heads; merge some of the dropped ones.

    Attributes:
        recycle: fraction of the dropped tokens that is merged by density-peaks clustering and kept.
        adaptive: v1.0: keep ``int(rank * scale + bias)`` tokens, with the rank of the raters-by-visual attention;
            ``retain`` is not used then, counts depend on the question, and every stage synchronises the device once.
        proportional: a merged token counts for all tokens of its cluster (ToMe, arXiv:2210.09461, section 3), also in
            the scores of later stages; a kept one for itself, and the other dropped ones for nothing. Not published.
        scale, bias: parameters of the rank rule. Published: (13.5, 0), (9, 6), (0.8, 0) for about 192, 128, 64 tokens.

    Safer than published by default: ``positions="original"`` (published: compact), merged tokens at the position of
    their cluster centre (published: after the kept ones) and ``always_drop=False``. :meth:`published`, :meth:`v1_0` and
    :meth:`video` restore the published rules.
    """

    recycle: float = 0.3
    adaptive: bool = False
    scale: float = 13.5
    bias: float = 0.0

    name: ClassVar[str] = "sparsevlm"
    when: ClassVar[str] = "to reproduce SparseVLM v1.5, or where dropped tokens should not be lost entirely"
    meaning: ClassVar[Meaning] = Meaning("attention of the raters")
    rows_read: ClassVar[Literal["text", "raters"]] = "raters"
    published_at: ClassVar[Sequence[Retain]] = (192, 128, 96, 64)
    published_budgets: ClassVar[Mapping[int, tuple[int, ...]]] = {
        192: (300, 200, 110),
        128: (303, 110, 36),
        96: (238, 48, 26),
        64: (66, 30, 17),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_number(self.recycle) or not 0 <= self.recycle < 1:
            raise SparseSightError(f"recycle={self.recycle!r}: a fraction from 0 to below 1")
        for name in ("scale", "bias"):
            if not is_number(value := getattr(self, name)):
                raise SparseSightError(f"{name}={value!r}: a number, such as the published 13.5 and 0")

    @classmethod
    def published(cls, retain: int = 192) -> SparseVLM:
        """v1.5 as published: layers 2, 6, 15 of 32, one of the four published budgets."""
        return cls(retain, (2, 6, 15), "compact", always_drop=True, judged_by="prompt")

    @classmethod
    def v1_0(cls, scale: float = 13.5, bias: float = 0.0) -> SparseVLM:
        """v1.0 as published: the rank rule at layers 2, 6, 15, 19 of 32."""
        return cls(1.0, (2, 6, 15, 19), "compact", adaptive=True, scale=scale, bias=bias, judged_by="prompt")

    @classmethod
    def video(cls) -> SparseVLM:
        """The Video-LLaVA rule: one stage after layer 1 that keeps as many tokens as the rank, about 194 of 2048."""
        return cls(1.0, (1,), "compact", adaptive=True, scale=1.0, judged_by="prompt")

    @property
    def recycled_fraction(self) -> float:
        return self.recycle

    @property
    def data_dependent(self) -> bool:
        return self.adaptive

    def score(self, stage: StageInput) -> Float[Tensor, "b v"]:
        return stage.attention.received(stage.rater, at_most=stage.rater_count).mean(1)

    def counts(self, stage: StageInput) -> Counts:
        if not self.adaptive:
            return super().counts(stage)
        attention, rater = stage.rater_attention()
        rank = ops.attention_rank(attention.mean_attention(), rater, stage.visual)
        visual = stage.visual.sum(1)
        keep = ops.rank_rule(rank, visual, self.scale, self.bias).where(stage.prunable, visual)
        kept, tokens = keep.tolist(), visual.tolist()  # the one sync: lengths must be known to the host
        pairs = [recycled_counts(n - k, self.recycle) for k, n in zip(kept, tokens, strict=True)]
        recycled, merged = (tuple(x) for x in zip(*pairs, strict=True))
        out = tuple(k + q for k, q in zip(kept, merged, strict=True))
        return Counts(keep, keep.new_tensor(recycled), recycled, merged, out)
