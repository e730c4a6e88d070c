"""Schedules and prompt order, shared by the methods that merge tokens in place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from .. import ops
from ..core.budget import Schedule, Stage, plan
from ..core.facts import Meaning
from ..core.method import Method, PreDecoderMethod
from ..core.stage import StageInput

if TYPE_CHECKING:
    from jaxtyping import Float, Int


def plan_merged(
    method: Method, visual: int, num_layers: int, layers: tuple[int, ...], share: float
) -> Schedule:
    """The method's schedule in which ``share`` of the tokens that leave a stage are merged from all that are not kept.

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
    """Apply ``merge`` to the recycled columns in prompt order, and map the result back to their given order."""
    valid = torch.arange(recycled.shape[1], device=recycled.device) < recycled.new_tensor(sizes)[:, None]
    order = recycled.masked_fill(~valid, torch.iinfo(recycled.dtype).max).argsort(dim=1, stable=True)
    made = merge(recycled.gather(1, order))
    return made._replace(
        centre=order.gather(1, made.centre), assign=made.assign.gather(1, order.argsort(dim=1))
    )


@dataclass(frozen=True)
class MergesAll(PreDecoderMethod):
    """A method that merges all tokens into as many as the budget allows, and keeps none unchanged."""

    meaning: ClassVar[Meaning] = Meaning("the same for all")

    @property
    def recycled_fraction(self) -> float:
        return 1.0

    def plan(self, visual: int, num_layers: int, layers: tuple[int, ...]) -> Schedule:
        return plan_merged(self, visual, num_layers, layers, 1.0)

    def score(self, stage: StageInput) -> Float[Tensor, "b v"]:
        """All tokens score the same."""
        return stage.visual.float()
