"""What methods share that merge tokens where those stand: schedules, and the order of the prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import ops
from ..core.budget import Schedule, Stage, plan
from ..core.method import Method, PreDecoderMethod
from ..core.stage import StageInput

if TYPE_CHECKING:
    from jaxtyping import Float, Int


def plan_merged(
    method: Method, visual: int, num_layers: int, layers: tuple[int, ...], share: float
) -> Schedule:
    """The method's schedule in which ``share`` of what leaves a stage is merged, out of all that is not kept.

    The totals are those of :func:`sparsesight.core.budget.plan`; a stage that drops nothing merges nothing.
    """
    total = plan(method.retain, visual, num_layers, layers, always_drop=method.always_drop)
    stages = []
    for stage in total.stages:
        merged = round(share * stage.keep) if stage.keep < stage.tokens_in else 0
        keep = stage.keep - merged
        recycled = stage.tokens_in - keep if merged else 0
        stages.append(Stage(stage.layer, stage.tokens_in, keep, recycled, merged))
    return Schedule(visual, num_layers, tuple(stages))


def merge_in_order(
    recycled: Int[Tensor, "b m"], sizes: Sequence[int], merge: Callable[[Tensor], ops.Merge]
) -> ops.Merge:
    """What ``merge`` makes of the recycled columns in the order of the prompt, told of the order they have."""
    valid = torch.arange(recycled.shape[1], device=recycled.device) < recycled.new_tensor(sizes)[:, None]
    order = recycled.masked_fill(~valid, torch.iinfo(recycled.dtype).max).argsort(dim=1, stable=True)
    made = merge(recycled.gather(1, order))
    return made._replace(
        centre=order.gather(1, made.centre), assign=made.assign.gather(1, order.argsort(dim=1))
    )


@dataclass(frozen=True)
class MergesAll(PreDecoderMethod):
    """A method that keeps no token as it is: all are merged, into as many as the budget has."""

    @property
    def recycled_fraction(self) -> float:
        return 1.0

    def plan(self, visual: int, num_layers: int, layers: tuple[int, ...]) -> Schedule:
        return plan_merged(self, visual, num_layers, layers, 1.0)

    def score(self, stage: StageInput) -> Float[Tensor, "b v"]:
        """None is better than another."""
        return stage.visual.float()
