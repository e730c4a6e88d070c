"""What one step of the engine prunes, decided on the host from sizes alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..budget import Schedule
from ..errors import BudgetError
from ..methods import Method
from .state import Counts, Removed


@dataclass(frozen=True)
class Step:
    """The requests of one step; all int64 [r], in the order of their rows."""

    query: Counts  # tokens that are computed now
    computed: Counts  # tokens that were computed before
    prompt: Counts  # length of the prompt
    block: Counts  # first physical block


@dataclass(frozen=True)
class Prompt:
    """A request whose whole prompt is computed now, and pruned."""

    request: int  # number in the step
    start: int  # first row
    length: int  # rows
    prompt: int  # of these belong to the prompt; what was generated before a preemption follows
    visual: NDArray[np.bool_]  # [length]
    text: int  # tokens of the prompt after the last visual one
    method: Method
    schedule: Schedule


@dataclass(frozen=True)
class StepPlan:
    """Rows of every stage. Stage ``s`` stands for the layers after the ``s``-th pruning layer."""

    removed: Counts  # [stages, r] removed in earlier steps
    query: Counts  # [stages, r] rows that are left of this step's
    prompts: tuple[Prompt, ...]  # what is pruned
    chunked: tuple[int, ...]  # requests with visual tokens that are kept, as their prompt comes in parts
    unmet: tuple[
        tuple[int, str], ...
    ]  # requests that are kept, as their prompt cannot meet the budget, and why

    @property
    def changes(self) -> bool:
        """Whether any layer needs metadata other than the dense ones."""
        return bool(self.prompts) or bool(self.removed.any())


def plan_step(
    step: Step,
    removed: Removed,
    visual: NDArray[np.bool_] | None,
    method_of: Callable[[int], Method | None],
    num_layers: int,
    stages: tuple[int, ...],
) -> StepPlan:
    """Plan a step, and note in ``removed`` what it removes.

    A prompt is pruned if all of it is computed in this step and text follows its last visual token; otherwise all of
    it is kept, in every layer, for good.

    Args:
        visual: which rows are visual tokens; None if none is.
        method_of: the method of a request, None to keep everything. It is asked only about prompts that come whole.
        num_layers: of the decoder.
        stages: pruning layers.
    """
    before = removed.of(step.block, step.computed)
    query = np.repeat(step.query[None], len(stages), 0)
    if visual is None or not visual.any():
        return StepPlan(before, query, (), (), ())
    end = np.cumsum(step.query)
    start = end - step.query
    count = np.concatenate(([0], np.cumsum(visual)))
    pictured = count[end] > count[start]
    whole = (step.computed == 0) & (step.query >= step.prompt)
    prompts: list[Prompt] = []
    unmet: list[tuple[int, str]] = []
    for r in np.flatnonzero(pictured & whole).tolist():
        rows = visual[start[r] : end[r]]
        length, prompt = int(step.query[r]), int(step.prompt[r])
        method = method_of(r)
        text = prompt - (length - int(rows[::-1].argmax()))
        if method is None or text <= 0:
            continue
        try:
            schedule = method.plan(int(rows.sum()), num_layers, stages)
        except BudgetError as error:
            unmet.append((r, str(error)))
            continue
        if not schedule.stages:
            continue
        prompts.append(Prompt(r, int(start[r]), length, prompt, rows, text, method, schedule))
        out = np.array([stage.tokens_out for stage in schedule.stages])
        query[:, r] = length - schedule.visual + out
    plan = StepPlan(
        before, query, tuple(prompts), tuple(np.flatnonzero(pictured & ~whole).tolist()), tuple(unmet)
    )
    removed.add(step.block, step.query - query)
    return plan
