"""FastVID: segments of frames that are alike; in each, dense tokens take in the others, and salient ones stay.

Shen et al., "FastVID: Dynamic Density Pruning for Fast Video Large Language Models", arXiv:2503.11187, section 3.
"""

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

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class FastVID(PreDecoderMethod):
    """Before the language model, keep the tokens of each frame that the vision tower attends to; merge the others.

    1. A clip is cut between two frames at the ``segments - 1`` smallest cosines of their features, and wherever the
       cosine is below ``threshold`` (section 3.2).
    2. Of the budget, ``1 - context`` are the tokens with the most attention of the class token, of every frame an equal
       share (section 3.3, ATS).
    3. Every ``interval``-th frame of a segment gives anchors, which share ``context`` of the budget in proportion to
       the length of the segment: its tokens with the largest density times distance to a denser token. For each such
       frame, all other tokens of the segment join the most similar anchor, which becomes ``weight`` times itself and
       ``1 - weight`` times their mean (section 3.3, DTM).

    Attributes:
        context: ``d``, the share of anchors. Published: 0.4.
        segments: ``c``, the least number of segments. Published: 8.
        threshold: ``tau``. Published: 0.9.
        interval: ``p``, from one anchor frame to the next. Published: 4.
        weight: ``beta``, of the anchor itself. Published: 0.6.

    Faithful: segments, shares, anchors, assignment, aggregation. Different: a frame's feature is the mean of its
    projected tokens and attention is that of the tower's own layer, as there is no SigLIP head (for a tower without a
    class token: what a patch receives from all others); densities compare unit vectors; kept tokens are not merged into
    anchors as well; the total is exact, where the paper rounds for each frame. Tokens keep their positions, as in the
    paper, and an anchor keeps its own. A family that pools a clip's tokens after the tower, such as LLaVA-OneVision, is
    refused with the reason, as its tokens have no patches of their own. Where anchor frames have too few tokens, other
    frames give anchors too. In a prompt of pictures, each is a frame.

    Raises:
        SparseSightError: a field outside its range.
    """

    context: float = 0.4
    segments: int = 8
    threshold: float = 0.9
    interval: int = 4
    weight: float = 0.6

    name: ClassVar[str] = "fastvid"
    when: ClassVar[str] = "clips of few shots: what stays the same in a shot is merged"
    meaning: ClassVar[Meaning] = Meaning("order by attention in the vision tower, frame by frame")
    published_at: ClassVar[Sequence[Retain]] = (0.25, 0.2, 0.15, 0.1)
    requires_vision: ClassVar[bool] = True
    requires_frames: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, low in (("context", 0), ("threshold", -1), ("weight", 0)):
            value = getattr(self, name)
            if not is_number(value) or not low <= value <= 1:
                raise SparseSightError(f"{name}={value!r}: a number from {low} to 1")
        for name in ("segments", "interval"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise SparseSightError(f"{name}={value!r}: a whole number of at least 1")

    @classmethod
    def published(cls, ratio: float = 0.25) -> FastVID:
        """As published for LLaVA-OneVision: 25, 20, 15 or 10 % of the tokens."""
        return cls(ratio, judged_by="prompt")

    @property
    def recycled_fraction(self) -> float:
        return 1.0 if self.context else 0.0

    def plan(self, visual: int, num_layers: int, layers: tuple[int, ...]) -> Schedule:
        return plan_merged(self, visual, num_layers, layers, self.context)

    def score(self, stage: StageInput) -> Float[Tensor, "b v"]:
        assert stage.frame is not None and stage.frame_tokens is not None
        place = ops.ranks(stage.tower.attention, stage.visual)
        return -ops.group_ranks(place, stage.frame, stage.frame_tokens, stage.visual).float()

    def merge(self, stage: StageInput, recycled: Int[Tensor, "b m"], counts: Counts) -> ops.Merge:
        assert stage.frame is not None
        frame, tokens = stage.frame, stage.features()
        segment = ops.frame_segments(tokens, frame, stage.visual, self.segments, self.threshold)

        def merge(column: Tensor) -> ops.Merge:
            return ops.anchor_merge(
                ops.gather_rows(tokens, column),
                frame.gather(1, column),
                segment.gather(1, column),
                counts.recycled,
                counts.merged,
                self.interval,
                self.weight,
            )

        return merge_in_order(recycled, counts.recycled, merge)

    def overhead(self, sizes: StageSizes) -> int:
        """Means of frames; comparisons of tokens with each other and with anchors; merged tokens."""
        return (1 + sizes.recycled + 2 * sizes.merged) * sizes.recycled * sizes.hidden
