"""Uniform: evenly spaced tokens, a control that ignores the content."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from .. import ops
from ..core.budget import StageSizes
from ..core.facts import Meaning
from ..core.method import PreDecoderMethod
from ..core.stage import StageInput

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class Uniform(PreDecoderMethod):
    """Keep every ``n/k``-th token of each picture (or frame) in raster order, the middles of ``k`` equal parts.

    Every picture gets its share of the budget, to within rounding (:func:`ops.group_ranks`), so ``per_frame`` changes
    nothing. Steps run along the raster, not along rows and columns, so any count is possible. A control, not a
    published method.
    """

    name: ClassVar[str] = "uniform"
    when: ClassVar[str] = "what evenly spaced tokens give"
    meaning: ClassVar[Meaning] = Meaning("even spacing")
    control: ClassVar[bool] = True
    requires_frames: ClassVar[bool] = True

    def score(self, stage: StageInput) -> Float[Tensor, "b v"]:
        assert stage.frame is not None
        groups = ops.group_seats(stage.frame, stage.visual, self.counts(stage).keep)
        return ops.evenly_spaced(groups, stage.visual).to(torch.float32)

    def overhead(self, sizes: StageSizes) -> int:
        return 0
