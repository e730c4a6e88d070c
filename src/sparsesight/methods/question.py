"""The similarity of visual tokens and the question in the language model's own space."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from .. import ops
from ..core.stage import StageInput

if TYPE_CHECKING:
    from jaxtyping import Float


def question_similarity(stage: StageInput) -> Float[Tensor, "b v"]:
    """The cosine of each visual token with the text tokens that score it, averaged over these; zero on padding."""
    visual = ops.unit_vectors(stage.features(), stage.visual)
    text = ops.unit_vectors(stage.text_features(), stage.text)
    question = text.sum(1, keepdim=True) / stage.text.sum(1).clamp(min=1)[:, None, None]
    return (visual * question).sum(-1)
