"""What one step of the engine prunes, and what each stage holds of its requests before and after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import SparseSightError
from .layout import Counts, Region, columns, removed_of
from .planner import RequestPlan


@dataclass(frozen=True)
class Step:
    """The requests of one step; int64 [r], in the order of their rows."""

    query: Counts  # tokens that are computed now
    computed: Counts  # tokens that were computed before
    plans: Sequence[RequestPlan]  # of each request
    # What the scheduler has allocated, of each group with gaps: its stage (0 before the first), tokens of a block, and
    # block table [r, m], where 0 is no block.
    allocated: Sequence[tuple[int, int, NDArray[np.integer[Any]]]] = ()


@dataclass(frozen=True)
class Prompt:
    """A request of which regions are computed now, and pruned."""

    request: int  # number in the step
    start: int  # first row
    length: int  # rows
    computed: int  # tokens that were computed before
    plan: RequestPlan
    regions: range  # of the plan, that are pruned now

    @property
    def pruned(self) -> tuple[Region, ...]:
        """The regions that are pruned now."""
        return self.plan.regions[self.regions.start : self.regions.stop]


@dataclass(frozen=True)
class StepPlan:
    """Rows of every stage. Stage ``s`` stands for the layers after the ``s``-th pruning layer."""

    step: Step
    removed: Counts  # [stages, r] removed in earlier steps
    query: Counts  # [stages, r] rows that are left of this step's
    prompts: tuple[Prompt, ...]  # what is pruned
    block_size: int

    @property
    def changes(self) -> bool:
        """Whether any layer needs metadata other than the dense ones."""
        return bool(self.prompts) or bool(self.removed.any())

    @cached_property
    def gone(self) -> Counts:
        """Tokens of each request that each stage does not hold after the step, [stages, r]."""
        return self.removed + self.step.query - self.query

    def rows(self, stage: int) -> Counts:
        """Rows of the step whose slots a stage writes: all but those of gaps, int64 [n]."""
        left = np.ones(int(self.step.query.sum()), np.bool_)
        for prompt in self.prompts:
            for region in prompt.pruned:
                gap = np.array(region.gap(stage, self.block_size)) - prompt.computed + prompt.start
                left[gap[0] : gap[1]] = False
        return np.flatnonzero(left)

    def columns(self, block: int) -> Counts:
        """Columns of a block table, with ``block`` tokens in a block, that each stage reads, [stages, r, width]."""
        held = self.step.computed + self.step.query
        width = -(-int(held.max()) // block)
        regions = [plan.regions for plan in self.step.plans]
        return columns(regions, held, len(self.query), self.block_size, block, width)


def plan_step(step: Step, stages: int, block_size: int) -> StepPlan:
    """Plan a step.

    Raises:
        SparseSightError: a region is computed in part; the scheduler is none of ours.
    """
    count = len(step.query)
    removed = np.zeros((stages, count), np.int64)
    query = np.repeat(step.query[None], stages, 0)
    prompts: list[Prompt] = []
    start = 0
    for r, plan in enumerate(step.plans):
        rows = int(step.query[r])
        if plan.regions:
            computed = int(step.computed[r])
            removed[:, r] = removed_of(plan.regions, computed, stages)
            now = _now(plan.regions, computed, computed + rows)
            if now:
                prompts.append(Prompt(r, start, rows, computed, plan, now))
                for region in plan.regions[now.start : now.stop]:
                    query[:, r] -= region.removed
        start += rows
    return StepPlan(step, removed, query, tuple(prompts), block_size)


def check_allocated(plan: StepPlan, names: Callable[[int], str]) -> None:
    """Refuse a step that would read or write keys where no block was allocated.

    Raises:
        SparseSightError: scheduler and worker do not agree; nothing has been computed of the step.
    """
    held = plan.step.computed + plan.step.query
    for stage, block, table in plan.step.allocated:
        columns = plan.columns(block)
        own = columns[stage - 1] if stage else np.broadcast_to(np.arange(columns.shape[2]), columns.shape[1:])
        tokens = held - (plan.gone[stage - 1] if stage else 0)
        used = np.arange(own.shape[1]) * block < tokens[:, None]
        missing = np.argwhere(used & (np.take_along_axis(table, own, 1) == 0))
        if len(missing):
            raise SparseSightError(
                f"request {names(int(missing[0, 0]))} has no block for some of the {tokens[missing[0, 0]]} tokens that "
                f"it holds in stage {stage}: scheduler and worker do not agree; report this with the prompt's sizes"
            )


def _now(regions: Sequence[Region], computed: int, end: int) -> range:
    """The regions that a step from token ``computed`` to ``end`` holds."""
    held = [i for i, region in enumerate(regions) if computed <= region.begin and region.end <= end]
    for region in regions:
        if computed <= region.begin < end < region.end:
            raise SparseSightError(
                f"a step ends at token {end}, between visual tokens from {region.begin} on and the text that judges "
                f"them, up to {region.end}: vLLM does not use sparsesight's scheduler; leave out --scheduler-cls and "
                "report this"
            )
    return range(held[0], held[-1] + 1) if held else range(0)
