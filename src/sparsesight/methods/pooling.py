"""Pooling: average each picture's grid to a coarser one, the control that every merging method must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from .. import ops
from ..core.budget import StageSizes
from ..core.stage import Counts, StageInput
from .merged import MergesAll, merge_in_order

if TYPE_CHECKING:
    from jaxtyping import Int


@dataclass(frozen=True)
class Pooling(MergesAll):
    """Spatial average pooling of the tokens that enter the language model, to exactly the budget's count.

    A picture (or frame) of ``n`` tokens is treated as a grid of ``h x w = n``, a square if ``n`` is a square number and
    otherwise as nearly square as its divisors allow. A picture with another grid, or with newline tokens, is also
    pooled along its raster, into cells that do not match its own grid. If no coarser grid has as many cells as the
    budget, the rows are split into bands and the bands into cells, whose numbers differ by at most one
    (:func:`ops.grid_pool`), so that costs stay equal: 64 of 576 are 8 x 8 cells of 3 x 3, 192 are 14 bands of 13 or 14.

    Every picture gets its share of the budget, to within rounding, so ``per_frame`` changes nothing; with fewer tokens
    than pictures some get none. A control, not a published method; it supports every budget.
    """

    name: ClassVar[str] = "pooling"
    when: ClassVar[str] = "what a smaller picture would give"
    control: ClassVar[bool] = True
    requires_frames: ClassVar[bool] = True

    def merge(self, stage: StageInput, recycled: Int[Tensor, "b m"], counts: Counts) -> ops.Merge:
        assert stage.frame is not None
        frame = stage.frame

        def merge(column: Tensor) -> ops.Merge:
            group = frame.gather(1, column)
            return ops.grid_pool(
                ops.gather_rows(stage.features(), column), group, counts.recycled, counts.merged
            )

        return merge_in_order(recycled, counts.recycled, merge)

    def overhead(self, sizes: StageSizes) -> int:
        """One average of each token."""
        return sizes.recycled * sizes.hidden
