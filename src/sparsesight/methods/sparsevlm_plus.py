"""SparseVLM+ (v2.0): SparseVLM's raters, corrected for rotary distance, on the heads that attend to the picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, ClassVar, Literal

from torch import Tensor

from .. import ops
from ..core.budget import Retain
from ..core.facts import Meaning
from ..core.fields import is_number
from ..core.method import Method
from ..core.stage import StageInput
from ..errors import SparseSightError

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class SparseVLMPlus(Method):
    """Keep what the raters attend to most, corrected for rotary distance, on the heads with most visual attention.

    Source: SparseVLM v2.0 as released by its authors (successor of arXiv:2410.04417).

    Attributes:
        heads: number of heads used, as a count or as a fraction of all; published: 14 of 32.
        gravity_floor: lower bound of the rotary weight divisor, as a fraction of the weight at distance zero.

    Safer than published by default: ``heads`` is the fraction 14/32 rather than the number 14, which does not carry
    over to another head count; and the rotary weight, which crosses zero at long distance (at 1707 tokens for a head
    width of 128 and base 1e4) and then flips the sign of a score, has a lower bound. The bound has no effect for the
    576 visual tokens of LLaVA-1.5. :meth:`published` restores both, and the clamp ``always_drop``.
    """

    heads: int | float = 14 / 32
    gravity_floor: float | None = 0.1

    name: ClassVar[str] = "sparsevlm+"
    when: ClassVar[str] = "to reproduce SparseVLM v2.0, or where the decoder's attention is trusted"
    meaning: ClassVar[Meaning] = Meaning("attention of the raters, corrected for distance")
    rows_read: ClassVar[Literal["text", "raters"]] = "raters"
    published_at: ClassVar[Sequence[Retain]] = (192, 128, 96, 64)
    published_budgets: ClassVar[Mapping[int, tuple[int, ...]]] = {
        192: (300, 200, 118),
        128: (238, 108, 60),
        96: (246, 54, 28),
        64: (66, 34, 20),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        limit = math.inf if isinstance(self.heads, Integral) else 1
        if not is_number(self.heads) or not 0 < self.heads <= limit:
            raise SparseSightError(
                f"heads={self.heads!r}: a count of at least 1 (int) or a fraction in (0, 1] (float)"
            )
        floor = self.gravity_floor
        if floor is not None and not (is_number(floor) and 0 < floor <= 1):
            raise SparseSightError(f"gravity_floor={floor!r}: a fraction in (0, 1], or None for no floor")

    @classmethod
    def published(cls, retain: int = 192) -> SparseVLMPlus:
        """v2.0 as published: layers 2, 6, 15 of 32, 14 heads, no lower bound on the rotary weight."""
        return cls(retain, (2, 6, 15), always_drop=True, heads=14, gravity_floor=None, judged_by="prompt")

    def score(self, stage: StageInput) -> Float[Tensor, "b v"]:
        attention, rater = stage.rater_attention()
        weight = attention.rope_weight()
        if self.gravity_floor is not None:
            weight = weight.clamp(min=self.gravity_floor * math.sqrt(attention.query.shape[-1]))
        received = attention.received(rater, weight)
        _, score = ops.select_heads(received, stage.visual, self.head_count(received.shape[1]))
        return score

    def head_count(self, heads: int) -> int:
        """How many of ``heads`` are used.

        Raises:
            SparseSightError: more heads are requested than the model has.
        """
        if not isinstance(self.heads, Integral):
            return max(round(self.heads * heads), 1)
        if self.heads > heads:
            raise SparseSightError(
                f"heads={self.heads}: the model has {heads} heads; pass a fraction such as 14/32"
            )
        return int(self.heads)
