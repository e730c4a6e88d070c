"""What one step of the engine prunes, decided on the host from sizes alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..core.budget import Schedule, Stage
from ..core.regions import Regions, assign
from ..core.turns import Turns
from ..errors import BudgetError, SparseSightError
from ..methods import Method
from .config import RequestBudget
from .state import Counts, Removed


@dataclass(frozen=True)
class Step:
    """The requests of one step; all int64 [r], in the order of their rows."""

    query: Counts  # tokens that are computed now
    computed: Counts  # tokens that were computed before
    prompt: Counts  # length of the prompt
    block: Counts  # what stands for the request: its first physical block, or its slot in the V2 runner
    # Tokens for which blocks are allocated, [1 + stages, r], the layers before the first stage first; None where all
    # layers share blocks.
    room: Counts | None = None
    # Token ids of a request's prompt, those of visual tokens counted, int [prompt]; None: not known.
    ids: Callable[[int], NDArray[np.integer] | None] | None = None


@dataclass(frozen=True)
class Prompt:
    """A request whose whole prompt is computed now, and pruned."""

    request: int  # number in the step
    start: int  # first row
    length: int  # rows
    prompt: int  # of these belong to the prompt; what was generated before a preemption follows
    visual: NDArray[np.bool_]  # [length]
    text: int  # tokens of the prompt that judge
    method: Method
    schedule: Schedule  # of all visual tokens
    lifted: str = ""  # why this is not the server's average but as many tokens after every pruning layer
    parts: tuple[
        Schedule, ...
    ] = ()  # of each region, where several turns have pictures or text in front judges
    regions: Regions | None = None  # then: which text judges which visual tokens


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


@dataclass(frozen=True)
class Choice:
    """What is kept of a prompt."""

    schedule: Schedule | None  # None: everything
    lifted: str = ""  # why this is not the server's average but as many tokens after every pruning layer
    text: int = 0  # tokens that judge
    parts: tuple[Schedule, ...] = ()  # see `Prompt`
    regions: Regions | None = None


def choice_of(
    asked: RequestBudget,
    visual: NDArray[np.bool_],
    ids: NDArray[np.integer] | None,
    turns: Turns | None,
    num_layers: int,
    stages: tuple[int, ...],
) -> Choice:
    """What is kept of a prompt that is computed at once, by its tokens alone: every turn has its own budget.

    Front end, scheduler and worker all go by it.

    Args:
        asked: what the request wants.
        visual: which of the prompt's tokens are visual.
        ids: of the prompt's tokens, if they are known.
        turns: how the served model's chats mark their turns, if that is known.
        num_layers: of the decoder.
        stages: pruning layers.

    Raises:
        BudgetError: as :func:`schedule_of`, for any of the turns; everything is kept then.
    """
    count = int(visual.sum())
    if not count:
        return Choice(None)
    if turns is None or ids is None or asked.method is None or asked.method.judged_by == "prompt":
        text = int(visual[::-1].argmax())
        choice = schedule_of(asked, count, text, num_layers, stages)
        return replace(choice, text=text)
    is_visual = torch.from_numpy(visual.copy())[None]
    marks = turns.marks(torch.from_numpy(ids.astype(np.int64))[None])
    regions = assign(is_visual, ~is_visual, marks)
    choices = [schedule_of(asked, size.visual[0], size.text[0], num_layers, stages) for size in regions.sizes]
    text = sum(size.text[0] for size in regions.sizes)
    lifted = next((choice.lifted for choice in choices if choice.lifted), "")
    if all(choice.schedule is None for choice in choices):
        return Choice(None)
    parts = tuple(
        choice.schedule or Schedule(size.visual[0], num_layers, ())
        for choice, size in zip(choices, regions.sizes, strict=True)
    )
    return Choice(_together(parts, stages), lifted, text, parts, regions)


def visual_mask(places: Iterable[Any], length: int) -> NDArray[np.bool_]:
    """Which of a prompt's tokens are visual, from vLLM's ``PlaceholderRange`` of each picture."""
    mask = np.zeros(length, np.bool_)
    for place in places:
        for first, last in place.extract_embeds_range():
            mask[first : last + 1] = True
    return mask


def _together(parts: tuple[Schedule, ...], stages: tuple[int, ...]) -> Schedule:
    """The schedule of all visual tokens of a prompt, from those of its regions."""
    if len(parts) == 1:
        return parts[0]
    own = [part.stages or tuple(Stage(layer, part.visual, part.visual) for layer in stages) for part in parts]
    total = [
        Stage(
            layer,
            *(sum(getattr(x, name) for x in row) for name in ("tokens_in", "keep", "recycled", "merged")),
        )
        for layer, row in zip(stages, zip(*own, strict=True), strict=True)
    ]
    return Schedule(sum(part.visual for part in parts), parts[0].num_layers, tuple(total))


def schedule_of(
    asked: RequestBudget, visual: int, text: int, num_layers: int, stages: tuple[int, ...]
) -> Choice:
    """What is kept of visual tokens that are judged together.

    It may depend on nothing else, see :func:`choice_of`. A request that names no budget is
    not to blame for a server's average that pictures of its size cannot meet, as the layers before the first pruning
    layer hold all of them: it keeps that many tokens after every pruning layer.

    Args:
        asked: what the request wants.
        visual: visual tokens.
        text: tokens that judge them.
        num_layers: of the decoder.
        stages: pruning layers.

    Raises:
        BudgetError: the prompt cannot meet the budget that the request names, or the server's where that is not one
            number; everything is kept then.
    """
    method, lifted = asked.method, ""
    if method is None or not visual or text <= 0:
        return Choice(None)
    try:
        schedule = method.plan(visual, num_layers, stages)
    except BudgetError as error:
        if asked.named or not method.one_budget:
            raise
        retain = method.retain
        assert not isinstance(retain, tuple)  # counts are always met
        keep = retain if isinstance(retain, Integral) else max(int(retain * visual), 1)
        lifted = str(error)
        schedule = replace(method, retain=(int(keep),) * len(stages), layers=stages).plan(
            visual, num_layers, stages
        )
    return Choice(schedule, lifted) if schedule.stages else Choice(None)


def check_room(step: Step, plan: StepPlan, names: Callable[[int], str]) -> None:
    """Refuse a step that would write keys where no block was allocated, and so over those of another request.

    Raises:
        SparseSightError: scheduler and worker do not agree; nothing has been computed of the step.
    """
    if step.room is None:
        return
    held = np.vstack([step.computed + step.query, step.computed - plan.removed + plan.query])
    short = np.argwhere(held > step.room)
    if len(short):
        stage, r = short[0].tolist()
        raise SparseSightError(
            f"kv_groups: request {names(r)} holds {held[stage, r]} tokens in stage {stage}, but the scheduler has "
            f'allocated blocks for {step.room[stage, r]}; leave "kv_groups" out of --additional-config and report this'
        )


def plan_step(
    step: Step,
    removed: Removed,
    visual: NDArray[np.bool_] | None,
    asked_of: Callable[[int], RequestBudget],
    num_layers: int,
    stages: tuple[int, ...],
    turns: Turns | None = None,
) -> StepPlan:
    """Plan a step, and note in ``removed`` what it removes.

    A prompt is pruned if all of it is computed in this step and text follows its last visual token; otherwise all of
    it is kept, in every layer, for good.

    Args:
        visual: which rows are visual tokens; None if none is.
        asked_of: what a request wants, asked only about prompts that come whole.
        num_layers: of the decoder.
        stages: pruning layers.
        turns: how the served model's chats mark their turns, if that is known.
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
        asked = asked_of(r)
        ids = None if step.ids is None else step.ids(r)
        try:
            choice = choice_of(asked, rows[:prompt], ids, turns, num_layers, stages)
        except BudgetError as error:
            unmet.append((r, str(error)))
            continue
        method, schedule = asked.method, choice.schedule
        if method is None or schedule is None:
            continue
        told = choice.text, method, schedule, choice.lifted, choice.parts, choice.regions
        prompts.append(Prompt(r, int(start[r]), length, prompt, rows, *told))
        out = np.array([stage.tokens_out for stage in schedule.stages])
        query[:, r] = length - schedule.visual + out
    plan = StepPlan(
        before, query, tuple(prompts), tuple(np.flatnonzero(pictured & ~whole).tolist()), tuple(unmet)
    )
    removed.add(step.block, step.query - query)
    return plan
