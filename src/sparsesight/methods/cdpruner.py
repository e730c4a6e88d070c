"""CDPruner: diversity under the condition of the question.

Zhang et al., "Beyond Attention or Similarity: Maximizing Conditional Diversity for Token Pruning in MLLMs",
arXiv:2506.10967, section 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from .. import ops
from ..budget import StageSizes
from .base import BeforeDecoder
from .stage import StageInput

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class CDPruner(BeforeDecoder):
    """Before the language model, the most probable subset of a determinantal point process, found greedily.

    Its kernel is ``diag(r) S diag(r)``: ``S`` the cosine similarity of the projected visual tokens, ``r`` their
    relevance to the question, stretched to [0, 1] over the picture.

    Faithful: where it acts, kernel, greedy inference. Different, and so there is no preset called published: the paper
    takes ``r`` from the text tower that CLIP was trained with, which a vision-language model does not contain. Here it
    is the cosine similarity to the question's embeddings in the language model's own space, averaged over its tokens.
    Who has such a text tower overrides :meth:`relevance`; nothing else changes.
    """

    name: ClassVar[str] = "cdpruner"

    def score(self, stage: StageInput) -> Float[Tensor, "b v"]:
        counts = self.counts(stage)
        place = ops.dpp_places(
            stage.features(), self.relevance(stage), stage.visual, counts.keep, max(counts.tokens_out)
        )
        return -place.float()

    def relevance(self, stage: StageInput) -> Float[Tensor, "b v"]:
        """Of every visual token to the question, between 0 and 1; all ones where it is the same for all."""
        visual = ops.unit_vectors(stage.features(), stage.visual)
        text = ops.unit_vectors(stage.text_features(), stage.text)
        question = text.sum(1, keepdim=True) / stage.text.sum(1).clamp(min=1)[:, None, None]
        relevance = (visual * question).sum(-1)
        low = relevance.masked_fill(~stage.visual, math.inf).amin(1, keepdim=True)
        span = relevance.masked_fill(~stage.visual, -math.inf).amax(1, keepdim=True) - low
        return torch.where(span > 0, (relevance - low) / span, 1).masked_fill(~stage.visual, 0)

    def overhead(self, sizes: StageSizes) -> int:
        relevance = (sizes.tokens_in + sizes.text) * sizes.hidden
        factor = sizes.keep * (sizes.keep + 1) // 2 * sizes.tokens_in
        return relevance + sizes.keep * sizes.tokens_in * sizes.hidden + factor
