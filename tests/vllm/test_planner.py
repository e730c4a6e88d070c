"""Which prompts a step prunes, and how many rows every stage is left with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sparsesight import BudgetError, FastV, PyramidDrop, SparseSightError, SparseVLM, SparseVLMPlus
from sparsesight.methods import Compose, Method
from sparsesight.vllm.config import RequestBudget
from sparsesight.vllm.planner import Step, StepPlan, check_room, plan_step, schedule_of
from sparsesight.vllm.state import Removed

LAYERS, STAGES = 8, (0, 1, 3)
METHOD = SparseVLMPlus((30, 20, 10), STAGES)


def step(*requests: tuple[int, int, int, int]) -> Step:
    """From (query, computed, prompt, block) of each request."""
    return Step(*(np.array(x, np.int64) for x in zip(*requests, strict=True)))


def mask(*spans: tuple[int, int, int]) -> Any:
    """Visual rows: for each request (before, visual, after)."""
    return np.concatenate([np.repeat([False, True, False], span) for span in spans])


def plan(
    given: Step, visual: Any, removed: Removed | None = None, method: Method | None = METHOD
) -> StepPlan:
    asked = RequestBudget(method, named=True)
    return plan_step(given, removed or Removed(len(STAGES)), visual, lambda r: asked, LAYERS, STAGES)


def test_a_prompt_is_pruned_beside_a_decoding_request_and_a_text() -> None:
    found = plan(step((1, 70, 60, 5), (60, 0, 60, 2), (9, 0, 9, 7)), mask((1, 0, 0), (5, 50, 5), (9, 0, 0)))
    assert found.query.tolist() == [[1, 40, 9], [1, 30, 9], [1, 20, 9]]
    assert not found.removed.any() and found.changes
    (prompt,) = found.prompts
    assert (prompt.request, prompt.start, prompt.length, prompt.prompt, prompt.text) == (1, 1, 60, 60, 5)
    assert prompt.visual.tolist() == mask((5, 50, 5)).tolist()


def test_merged_tokens_count() -> None:
    method = SparseVLM((30, 20, 10), STAGES)
    found = plan(step((60, 0, 60, 2)), mask((5, 50, 5)), method=method)
    schedule = method.plan(50, LAYERS, STAGES)
    assert found.query[:, 0].tolist() == [10 + s.tokens_out for s in schedule.stages]
    assert schedule.stages[0].merged > 0


def test_the_removed_tokens_stay_removed_until_the_request_ends() -> None:
    removed = Removed(len(STAGES))
    plan(step((60, 0, 60, 2)), mask((5, 50, 5)), removed)
    later = plan(step((1, 60, 60, 2), (1, 80, 70, 9)), None, removed)
    assert later.removed.tolist() == [[20, 0], [30, 0], [40, 0]]
    assert later.query.tolist() == [[1, 1]] * 3 and later.changes
    # Another request gets the block; nothing was told of the end of the first.
    again = plan(step((12, 0, 12, 2)), None, removed)
    assert not again.removed.any() and not again.changes


def test_a_preempted_request_is_pruned_again_as_a_prompt() -> None:
    removed = Removed(len(STAGES))
    plan(step((60, 0, 60, 2)), mask((5, 50, 5)), removed)
    again = plan(step((67, 0, 60, 4)), mask((5, 50, 12)), removed)
    assert again.prompts[0].prompt == 60 and again.prompts[0].length == 67 and again.prompts[0].text == 5
    assert again.query[:, 0].tolist() == [47, 37, 27]
    assert plan(step((1, 67, 60, 4)), None, removed).removed[:, 0].tolist() == [20, 30, 40]


@pytest.mark.parametrize(
    ("request_", "spans"),
    [((40, 0, 60, 2), (5, 35, 0)), ((20, 40, 60, 2), (0, 15, 5))],
    ids=["first part", "second part"],
)
def test_a_prompt_in_parts_is_kept_and_counted(
    request_: tuple[int, int, int, int], spans: tuple[int, int, int]
) -> None:
    removed = Removed(len(STAGES))
    found = plan(step((60, 0, 60, 9), request_), mask((5, 50, 5), spans), removed)
    assert found.chunked == (1,) and len(found.prompts) == 1
    assert (found.query[:, 1] == request_[0]).all()
    assert not removed.of(np.array([2]), np.array([60])).any()


def test_what_is_kept() -> None:
    for found in (
        plan(step((60, 0, 60, 2)), mask((5, 50, 5)), method=None),  # as the request asked
        plan(step((55, 0, 55, 2)), mask((5, 50, 0))),  # no text to judge
        plan(step((60, 0, 55, 2)), mask((5, 50, 5))),  # none in the prompt; these were generated
        plan(step((60, 0, 60, 2)), mask((5, 50, 5)), method=SparseVLMPlus(50, STAGES)),  # nothing to drop
    ):
        assert not found.changes and not found.prompts and (found.query == found.query[0]).all()


PUBLISHED = (2, 6, 15)  # of 32 layers; those before the second are more than a tenth of what pictures cost


@pytest.mark.parametrize("visual", [1152, 2880])
@pytest.mark.parametrize("method", [SparseVLMPlus(64), SparseVLM(64), PyramidDrop(64)], ids=str)
def test_a_default_that_the_pictures_cannot_meet_is_kept_after_every_pruning_layer(
    method: Method, visual: int
) -> None:
    stages = method.stage_layers(32)
    with pytest.raises(BudgetError, match=r"retain=64 of \d+ visual tokens cannot be met") as error:
        schedule_of(RequestBudget(method, named=True), visual, 9, 32, stages)
    choice = schedule_of(RequestBudget(method, named=False), visual, 9, 32, stages)
    assert choice.schedule is not None and choice.lifted == str(error.value)
    assert choice.schedule == replace(method, retain=(64,) * len(stages)).plan(visual, 32, stages)
    assert choice.schedule.stages[-1].keep == 64 < choice.schedule.equal_tokens
    ratio = schedule_of(
        RequestBudget(replace(method, retain=64.5 / visual), named=False), visual, 9, 32, stages
    )
    assert ratio.schedule == choice.schedule and "cannot be met" in ratio.lifted


def test_a_default_that_can_be_met_is_met() -> None:
    for method in (SparseVLMPlus(64), SparseVLMPlus((9, 5, 2)), SparseVLMPlus(0.2)):
        choice = schedule_of(RequestBudget(method, named=False), 576, 9, 32, PUBLISHED)
        assert choice.schedule == method.plan(576, 32, PUBLISHED) and not choice.lifted


def test_a_composition_has_no_single_budget_to_lift() -> None:
    method = Compose(FastV(0.5, (2,)), SparseVLMPlus(64, (6, 15)))
    with pytest.raises(BudgetError, match="cannot be met"):
        schedule_of(RequestBudget(method, named=False), 2880, 9, 32, PUBLISHED)


def test_a_step_says_of_which_prompts_the_budget_was_lifted() -> None:
    method = SparseVLMPlus(64)
    given, visual = step((1162, 0, 1162, 2), (586, 0, 586, 3)), mask((5, 1152, 5), (5, 576, 5))
    found = plan_step(given, Removed(3), visual, lambda r: RequestBudget(method, named=False), 32, PUBLISHED)
    assert ["retain=64 of 1152" in prompt.lifted for prompt in found.prompts] == [True, False]
    assert found.query[:, 0].tolist() == [74, 74, 74] and not found.unmet


def test_a_budget_that_cannot_be_met_says_why() -> None:
    method, given = SparseVLMPlus(64, (4, 5, 6)), step((60, 0, 60, 2), (1010, 0, 1010, 3))
    visual = mask((5, 50, 5), (5, 1000, 5))
    found = plan_step(
        given, Removed(3), visual, lambda r: RequestBudget(method, named=True), LAYERS, (4, 5, 6)
    )
    assert not found.changes and found.unmet[0][0] == 1 and "retain=64" in found.unmet[0][1]


def test_a_full_budget_in_counts_runs_all_stages() -> None:
    found = plan(step((60, 0, 60, 2)), mask((5, 50, 5)), method=SparseVLMPlus((50, 50, 50), STAGES))
    assert len(found.prompts) == 1 and (found.query == 60).all()


def test_entries_of_other_blocks_survive_the_growth_of_the_table() -> None:
    removed = Removed(2)
    first, later = np.array([3]), np.array([7])
    removed.of(first, np.array([0]))
    removed.add(first, np.array([[4], [6]]))
    assert removed.of(np.array([1000, 3]), np.array([5, 7])).tolist() == [[0, 4], [0, 6]]
    assert removed.of(later, np.array([2])).tolist() == [[0], [0]]
    assert removed.of(first, np.array([0])).tolist() == [[0], [0]]


def test_a_step_without_room_is_refused() -> None:
    # A prompt of 60 that is left with 40, 30 and 20, beside a decoding request that has lost 20, 30 and 40 of its 80.
    removed, given = Removed(len(STAGES)), step((1, 79, 60, 5), (60, 0, 60, 2))
    removed.of(np.array([9]), np.array([1]))
    removed.add(np.array([5]), np.array([[20], [30], [40]]))
    made = plan(given, mask((1, 0, 0), (5, 50, 5)), removed)
    room = np.array([[80, 60], [60, 40], [50, 30], [40, 20]])
    check_room(given, made, str)
    check_room(replace(given, room=room), made, str)
    for stage, r in np.ndindex(4, 2):
        less = room.copy()
        less[stage, r] -= 1
        with pytest.raises(
            SparseSightError, match=f"request {r} holds {room[stage, r]} tokens in stage {stage}"
        ):
            check_room(replace(given, room=less), made, str)
