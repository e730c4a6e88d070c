"""What is pruned of a request, and where its keys lie: against a plain count, token by token."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sparsesight import BudgetError, FastV, PyramidDrop, SparseSightError, SparseVLM, SparseVLMPlus, ToMe
from sparsesight.core.whole_blocks import in_whole_blocks
from sparsesight.methods import Compose, Method
from sparsesight.vllm.config import RequestBudget
from sparsesight.vllm.layout import Region, columns, cut_hit, end_of_step, removed_of
from sparsesight.vllm.planner import NOTHING, Planner, RequestPlan, schedule_of
from sparsesight.vllm.step_plan import Step, check_allocated, plan_step

LAYERS, STAGES, SIZE = 8, (0, 1, 3), 4
METHOD = SparseVLMPlus((30, 20, 10), STAGES)


class Place:
    """As vLLM's ``PlaceholderRange``."""

    def __init__(self, first: int, count: int) -> None:
        self.range = first, first + count - 1

    def extract_embeds_range(self) -> list[tuple[int, int]]:
        return [self.range]


def planned(
    before: int, visual: int, after: int, method: Method = METHOD, extra_args: Any = None, **more: Any
) -> RequestPlan:
    planner = Planner(method, STAGES, LAYERS, block_size=SIZE, **more)
    return planner.request_plan(
        [Place(before, visual)] if visual else [], None, before + visual + after, extra_args
    )


def step(*requests: tuple[int, int, RequestPlan]) -> Step:
    """From tokens that are computed now, those before, and the plan of each request."""
    query, computed, plans = zip(*requests, strict=True)
    return Step(np.array(query, np.int64), np.array(computed, np.int64), plans)


def test_a_prompt_is_pruned_beside_a_decoding_request_and_a_text() -> None:
    found = plan_step(step((1, 70, NOTHING), (60, 0, planned(5, 50, 5)), (9, 0, NOTHING)), 3, SIZE)
    # 20, 30 and 40 tokens go, in whole blocks.
    assert found.query.tolist() == [[1, 40, 9], [1, 32, 9], [1, 20, 9]]
    assert not found.removed.any() and found.changes
    (prompt,) = found.prompts
    assert (prompt.request, prompt.start, prompt.length, prompt.computed) == (1, 1, 60, 0)
    assert prompt.plan.visual.tolist() == [False] * 5 + [True] * 50 + [False] * 5
    assert prompt.plan.text.tolist() == [False] * 55 + [True] * 5


def test_what_is_removed_follows_from_the_number_of_computed_tokens() -> None:
    plan = planned(5, 50, 5)
    for query, computed in ((1, 60), (1, 80), (3, 57)):  # the last begins in the text behind, over a hit
        later = plan_step(step((query, computed, plan), (1, 80, NOTHING)), 3, SIZE)
        assert later.removed.tolist() == [[20, 0], [28, 0], [40, 0]]
        assert later.query.tolist() == [[query, 1]] * 3 and later.changes and not later.prompts
    before = plan_step(step((5, 0, plan)), 3, SIZE)
    assert not before.changes
    after = plan_step(step((55, 5, plan)), 3, SIZE)
    assert after.prompts[0].computed == 5 and after.query[:, 0].tolist() == [35, 27, 15]


def test_a_preempted_request_is_pruned_again_with_what_it_had_said() -> None:
    again = plan_step(step((67, 0, planned(5, 50, 5))), 3, SIZE)
    assert again.query[:, 0].tolist() == [47, 39, 27]


@pytest.mark.parametrize(("query", "computed"), [(40, 0), (20, 40), (57, 0)])
def test_a_step_that_divides_a_region_or_its_question_is_refused(query: int, computed: int) -> None:
    with pytest.raises(SparseSightError, match=r"--scheduler-cls"):
        plan_step(step((query, computed, planned(5, 50, 5))), 3, SIZE)


def test_a_plan_is_worked_out_once_in_a_process() -> None:
    front, scheduler = (Planner(METHOD, STAGES, LAYERS, block_size=SIZE) for _ in range(2))
    visual, ids = np.arange(60) % 59 > 4, np.arange(60)
    asked = RequestBudget(METHOD, named=False)
    plan = front.plan(asked, visual, ids)
    assert plan.regions and scheduler.plan(asked, visual.copy(), ids.copy()) is plan
    others = [(replace(front, block_size=8), asked, visual, ids), (front, asked, visual, ids + 1)]
    others += [(front, RequestBudget(SparseVLMPlus((20, 9, 5), STAGES), named=True), visual, ids)]
    for planner, budget, mask, tokens in others:
        assert planner.plan(budget, mask, tokens) is not plan


def test_what_is_kept() -> None:
    for found in (
        planned(5, 50, 5, extra_args={"sparsesight_retain": "none"}),
        planned(5, 50, 0),  # no text to judge
        planned(5, 0, 5),
        planned(5, 50, 5, SparseVLMPlus(50, STAGES)),  # nothing to drop
    ):
        assert not found.regions and found.method is None and not (found.unmet or found.refused)
    assert "sparsesight_retain=-1" in planned(5, 50, 5, extra_args={"sparsesight_retain": -1}).refused
    late = Planner(SparseVLMPlus(64, (4, 5, 6)), (4, 5, 6), LAYERS)
    unmet = late.request_plan([Place(5, 1000)], None, 1010, {"sparsesight_retain": 64})
    assert "retain=64" in unmet.unmet and not unmet.regions


def test_a_region_that_is_longer_than_a_step_is_kept() -> None:
    assert planned(5, 50, 5, longest=55).regions and not planned(5, 50, 5, longest=55).too_long
    long = planned(5, 50, 5, longest=54)
    assert not long.regions and long.too_long == 1


def test_a_region_of_which_blocks_keep_all_is_as_nobody_prunes_it() -> None:
    for counts, rounded in (((50, 50, 50), 0), ((49, 48, 47), 1)):
        plan = planned(5, 50, 5, SparseVLMPlus(counts, STAGES), longest=9)
        assert not plan.regions and (plan.rounded, plan.too_long) == (rounded, 0)
    assert planned(5, 50, 5, SparseVLMPlus((49, 48, 46), STAGES)).regions[0].removed == (0, 0, 4)


@pytest.mark.parametrize("size", [1, 4, 16, 32])
@pytest.mark.parametrize(
    "method",
    [
        SparseVLMPlus(64),
        SparseVLM(64),
        SparseVLM(300),
        FastV(0.25, (2,)),
        SparseVLMPlus((3, 2, 1), (2, 6, 15)),
        ToMe(64),
        ToMe(58),  # as many as recycling would leave of all tokens
    ],
)
def test_stages_remove_whole_blocks(method: Method, size: int) -> None:
    asked = method.plan(576, 32, method.stage_layers(32))
    found = in_whole_blocks(asked, size, method.recycled_fraction)
    tokens = 576
    for stage, wanted in zip(found.stages, asked.stages, strict=True):
        assert stage.tokens_in == tokens >= stage.tokens_out and not (576 - stage.tokens_out) % size
        least = max(wanted.tokens_out, size - 1)
        assert least <= stage.tokens_out < least + size
        assert bool(stage.merged) == (wanted.merged > 0 and stage.tokens_out < tokens)
        assert bool(stage.keep) == (wanted.keep > 0)
        tokens = stage.tokens_out
    assert size > 1 or found == asked


REGIONS = (
    Region(5, 30, 5, 34, METHOD.plan(25, LAYERS, STAGES), (8, 12, 16)),
    Region(41, 60, 36, 60, METHOD.plan(19, LAYERS, STAGES), (4, 4, 12), in_front=True),
)


def test_hits_and_steps_end_outside_of_regions() -> None:
    hits = {hit: cut_hit(REGIONS, hit, SIZE) for hit in range(0, 80, SIZE)}
    assert hits == {
        **{hit: hit for hit in range(0, 80, SIZE)},
        **dict.fromkeys(range(8, 30, SIZE), 4),
        **dict.fromkeys(range(40, 60, SIZE), 36),
    }
    assert (
        cut_hit((REGIONS[0], replace(REGIONS[1], begin=30)), 40, SIZE) == 4
    )  # its block begins in the one before
    assert [end_of_step(REGIONS, 0, end) for end in (5, 6, 33, 34, 36, 37, 59, 60)] == [
        5,
        5,
        5,
        34,
        36,
        36,
        36,
        60,
    ]
    assert end_of_step(REGIONS, 32, 33) == 33  # the question goes on behind a hit
    with pytest.raises(SparseSightError, match="from 5 to 30"):
        removed_of(REGIONS, 8, 3)


def test_every_other_token_keeps_its_slot() -> None:
    """Of two regions, each stage's table and rows against the slots written down token by token."""
    held = 70
    index = columns([REGIONS], np.array([held]), 3, SIZE, SIZE, -(-held // SIZE))
    plan = plan_step(step((held, 0, RequestPlan(None, REGIONS))), 3, SIZE)
    for stage in range(3):
        slots = [
            token
            for token in range(held)
            if not any(a <= token < b for a, b in (r.gap(stage, SIZE) for r in REGIONS))
        ]
        assert plan.rows(stage).tolist() == slots
        read = [int(index[stage, 0, i // SIZE]) * SIZE + i % SIZE for i in range(len(slots))]
        assert read == slots
        assert all(
            token in slots for token in range(held) if not any(r.first <= token < r.stop for r in REGIONS)
        )


def test_a_step_without_blocks_is_refused() -> None:
    plan = planned(5, 50, 5)
    table = np.arange(1, 16)[None].repeat(2, 0)
    for stage in range(1, 4):
        start, stop = plan.regions[0].gap(stage - 1, SIZE)
        table[1, start // SIZE : stop // SIZE] = 0
        given = replace(step((1, 59, NOTHING), (60, 0, plan)), allocated=[(stage, SIZE, table)])
        check_allocated(plan_step(given, 3, SIZE), str)
        for column in (0, 14, start // SIZE - 1, stop // SIZE):
            less = table.copy()
            less[1, column] = 0
            given = replace(given, allocated=[(stage, SIZE, less)])
            with pytest.raises(SparseSightError, match=f"request 1 has no block.*stage {stage}"):
                check_allocated(plan_step(given, 3, SIZE), str)
    with pytest.raises(SparseSightError, match="stage 0"):
        check_allocated(
            plan_step(replace(step((1, 59, NOTHING), (60, 0, plan)), allocated=[(0, SIZE, table)]), 3, SIZE),
            str,
        )


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


def test_a_plan_says_that_the_budget_was_lifted() -> None:
    planner = Planner(SparseVLMPlus(64), PUBLISHED, 32)
    one, two = (planner.request_plan([Place(5, count)], None, count + 10, None) for count in (576, 1152))
    assert not one.lifted and "retain=64 of 1152" in two.lifted
    assert [stage.keep for stage in two.regions[0].schedule.stages] == [64, 64, 64]
