"""DART: drop duplicates instead of ranking tokens by importance.

Wen et al., "Stop Looking for Important Tokens in Multimodal Language Models: Duplication Matters More",
arXiv:2502.11494, section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from .. import ops
from ..core.budget import Retain, StageSizes
from ..core.facts import Meaning
from ..core.method import Method
from ..core.stage import StageInput
from ..errors import SparseSightError

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class DART(Method):
    """Keep a few pivots, and the visual tokens that are least similar to them.

    The pivots are the visual and the text tokens whose keys (all heads together, after the rotary embedding) have the
    largest L1 norm. Visual pivots stay. Then each pivot in turn adds an equal share of the remaining budget: the tokens
    with the smallest cosine similarity to it, by the layer's output.

    Attributes:
        pivots: visual pivots, published 4.
        text_pivots: pivots among the text after the picture, published 4.

    The L1 norm of a rotated key depends on its absolute position. In a batch padded on the left, pass ``position_ids``
    to a plain forward, as ``generate()`` does, or a sample's pivots are not those that it has alone.

    Faithful: layer (before the third, by the keys of the second), selection and number of pivots, equal shares.
    Different: the count is exact, while the released code keeps ``4 + 8 * (tokens // 8)``; visual pivots add their
    share before text pivots, each ordered by norm, while the released order is that of a Python set; and hidden states
    are compared directly, while the released code first applies the decoder's final norm, whose weights rescale
    channels.
    """

    pivots: int = 4
    text_pivots: int = 4

    name: ClassVar[str] = "dart"
    when: ClassVar[str] = "by similarity alone, so with any attention kernel"
    meaning: ClassVar[Meaning] = Meaning("order of selection by difference")
    published_at: ClassVar[Sequence[Retain]] = (192, 128, 64)
    requires_raters: ClassVar[bool] = False
    depths: ClassVar[tuple[int, ...]] = (1,)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("pivots", "text_pivots"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Integral) or value < 0:
                raise SparseSightError(f"{name}={value!r}: a whole number from 0, such as the published 4")
        if not self.pivots + self.text_pivots:
            raise SparseSightError("pivots=0, text_pivots=0: tokens must be compared with at least one")

    @classmethod
    def published(cls, tokens: int = 128) -> DART:
        """4 visual and 4 text pivots, and 192, 128 or 64 of LLaVA-1.5's 576 tokens after the second layer."""
        return cls((tokens,), (1,), judged_by="prompt")

    def score(self, stage: StageInput) -> Float[Tensor, "b v"]:
        attention, keep = stage.attention, self.counts(stage).keep
        norm = attention.key.abs().sum((1, 3), dtype=torch.float32)
        column = stage.text_column + attention.key.shape[2] - stage.hidden.shape[1]  # cached keys come first
        by_norm = ops.ranks(norm.gather(1, attention.key_column), stage.visual)
        text_by_norm = ops.ranks(norm.gather(1, column), stage.text)
        held = keep.clamp(max=self.pivots)
        texts = stage.text.sum(1).clamp(max=self.text_pivots)
        pivot, exists = ops.first_ranked(by_norm, stage.visual, held, min(self.pivots, by_norm.shape[1]))
        text_pivot, text_exists = ops.first_ranked(
            text_by_norm, stage.text, texts, min(self.text_pivots, text_by_norm.shape[1])
        )
        place = ops.least_similar_places(
            stage.features(),
            stage.visual,
            by_norm < held[:, None],
            torch.cat(
                (
                    ops.gather_rows(stage.features(), pivot),
                    ops.gather_rows(stage.text_features(), text_pivot),
                ),
                1,
            ),
            torch.cat((exists, text_exists), 1),
            keep,
        )
        return -place.float()

    def overhead(self, sizes: StageSizes) -> int:
        return (self.pivots + self.text_pivots) * sizes.tokens_in * sizes.hidden
