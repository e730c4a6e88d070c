"""VisionZip: keep the patches that the vision tower's class token attends to, and merge the rest by their keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from .. import ops
from ..core.budget import Retain, Schedule, StageSizes
from ..core.facts import Meaning
from ..core.fields import is_number
from ..core.method import PreDecoderMethod
from ..core.stage import Counts, StageInput
from ..errors import SparseSightError
from .merged import merge_in_order, plan_merged
from .proportional import Proportional

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class VisionZip(PreDecoderMethod, Proportional):
    """Keep the dominant tokens, by attention of the class token; merge all others into a few contextual ones.

    Yang et al., "VisionZip: Longer is Better but Not Necessary in Vision Language Models", arXiv:2412.04467, sections
    3.2 and 3.3: attention and keys are those of the layer whose output goes to the language model; every ``n``-th token
    that is not dominant is a target, and the others are merged into the target with the most similar key.

    Attributes:
        contextual: share of the retained tokens that is merged. Published: 10 of 64, 20 of 128, 30 of 192.
        add: a contextual token is its target plus the mean of the tokens merged into it, as released. By default it is
            the mean of them all, so that its norm is like that of other tokens.
        proportional: a contextual token counts for all tokens merged into it (ToMe, arXiv:2210.09461, section 3), a
            dominant one for itself. Not published.

    Different: the class token itself, which the paper counts as a dominant token, is not a visual token here, and a
    patch takes its place; tokens are merged after the projector, not before it; a prompt's pictures compete for one
    budget (in the paper each has its own: ``per_frame=True`` does that for the dominant tokens). By default tokens keep
    their positions, and a contextual one takes that of its target. :meth:`published` renumbers them with the contextual
    tokens last, and sets ``add``. For a tower without a class token, attention is what a patch receives from all
    others, as in the paper.
    """

    contextual: float = 10 / 64
    add: bool = False

    name: ClassVar[str] = "visionzip"
    when: ClassVar[str] = "before the question is known: by the vision tower alone"
    meaning: ClassVar[Meaning] = Meaning("attention in the vision tower")
    published_at: ClassVar[Sequence[Retain]] = (192, 128, 64)
    requires_vision: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_number(self.contextual) or not 0 <= self.contextual <= 1:
            raise SparseSightError(f"contextual={self.contextual!r}: a share from 0 to 1 of what is retained")

    @classmethod
    def published(cls, retain: int = 192) -> VisionZip:
        """As published for LLaVA-1.5: 162 + 30, 108 + 20 or 54 + 10 of 576."""
        return cls(retain, positions="compact", add=True, judged_by="prompt")

    @property
    def recycled_fraction(self) -> float:
        return 1.0 if self.contextual else 0.0

    def plan(self, visual: int, num_layers: int, layers: tuple[int, ...]) -> Schedule:
        return plan_merged(self, visual, num_layers, layers, self.contextual)

    def score(self, stage: StageInput) -> Float[Tensor, "b v"]:
        return stage.tower.attention

    def merge(self, stage: StageInput, recycled: Int[Tensor, "b m"], counts: Counts) -> ops.Merge:
        return merge_in_order(
            recycled,
            counts.recycled,
            lambda column: ops.even_target_merge(
                ops.gather_rows(stage.features(), column),
                ops.gather_rows(stage.tower.key, column),
                counts.recycled,
                counts.merged,
                self.add,
            ),
        )

    def overhead(self, sizes: StageSizes) -> int:
        """Keys compared with targets (assumed as wide as hidden states), and averages; without the tower's row."""
        return 2 * sizes.recycled * sizes.merged * sizes.hidden
