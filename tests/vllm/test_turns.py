"""Which turn judges, in vLLM: from ids alone, alike in front end, scheduler and worker, and as in transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sparsesight import SparseVLMPlus
from sparsesight.core.turns import Turns
from sparsesight.errors import SparseSightError
from sparsesight.settings import KEY
from sparsesight.vllm.config import RequestBudget, method_of, turns_of, with_turns
from sparsesight.vllm.planner import Planner, RequestPlan
from sparsesight.vllm.prefill import Prefill
from sparsesight.vllm.step_plan import Step, plan_step
from tests.hf import tiny

LAYERS, STAGES = 8, (1, 3)
TURNS = Turns(((7, 8),), template=(1, 2))
# Visual tokens are 9, a turn ends with 7 8, questions are 3 to 6.
CHAT = [1, *[9] * 20, 3, 4, 7, 8, 5, 2, *[9] * 30, 3, 7, 8, 6, 2, 3, 7, 8]
FRONT = [1, 3, 4, *[9] * 20, 2, 7, 8]


def choice(ids: list[int], turns: Turns | None = TURNS, **method: Any) -> RequestPlan:
    planner = Planner(SparseVLMPlus(0.5, STAGES, **method), STAGES, LAYERS, turns)
    tokens = np.array(ids)
    return planner.plan(RequestBudget(planner.method, named=True), tokens == 9, tokens)


def test_every_turn_has_its_own_budget() -> None:
    first, second = choice(CHAT).regions
    method = SparseVLMPlus(0.5, STAGES)
    assert first.schedule == method.plan(20, LAYERS, STAGES)
    assert second.schedule == method.plan(30, LAYERS, STAGES)
    assert (first.first, first.stop, first.begin, first.end, first.text) == (1, 21, 1, 25, 4)
    assert (second.first, second.stop, second.begin, second.end, second.text) == (27, 57, 27, 60, 3)


def test_a_turn_is_named_by_what_decides_and_by_nothing_behind_it() -> None:
    first, second = choice(CHAT).regions
    assert choice(CHAT[:25]).regions == (first,)
    other = list(CHAT)
    other[21] = 6
    assert [x.digest for x in choice(other).regions] == [choice(other).regions[0].digest, second.digest]
    assert len({first.digest, second.digest, choice(other).regions[0].digest}) == 3
    for more in ({"always_drop": True}, {"heads": 1}):
        assert choice(CHAT, **more).regions[0].digest != first.digest


def test_without_marks_and_by_the_published_rule_all_text_judges() -> None:
    for found in (choice(CHAT, None), choice(CHAT, judged_by="prompt")):
        (region,) = found.regions
        assert (region.begin, region.end, region.text) == (1, len(CHAT), 8)
        assert region.schedule == SparseVLMPlus(0.5, STAGES).plan(50, LAYERS, STAGES)


def test_a_step_prunes_by_turns() -> None:
    tokens = np.array(CHAT)
    plan = plan_step(Step(np.array([len(CHAT)]), np.array([0]), [choice(CHAT)]), 2, 1)
    (prompt,) = plan.prompts
    removed = np.sum([region.removed for region in prompt.pruned], 0)
    assert plan.query[:, 0].tolist() == (len(CHAT) - removed).tolist()
    prefill = Prefill.of([prompt], STAGES, torch.device("cpu"))
    assert prefill.rows.region is not None and len(prefill.counts) == 2 and not prefill.in_front
    judges = prefill.rows.text[0].nonzero()[:, 0].tolist()
    assert judges == [21, 22, 23, 24, 57, 58, 59]
    # The second turn alone, over what is cached of the first.
    later = plan_step(Step(np.array([len(CHAT) - 25]), np.array([25]), [choice(CHAT)]), 2, 1)
    assert later.removed[:, 0].tolist() == list(prompt.pruned[0].removed)
    (prompt,) = later.prompts
    prefill = Prefill.of([prompt], STAGES, torch.device("cpu"))
    assert prefill.rows.region is None and len(prefill.counts) == 1
    assert (prefill.rows.text[0].nonzero()[:, 0] + 25).tolist() == [57, 58, 59]
    assert prefill.rows.visual[0].tolist() == (tokens[25:] == 9).tolist()


def test_a_question_in_front_judges() -> None:
    (region,) = choice(FRONT).regions
    assert region.in_front and region.text == 2 and (region.begin, region.first, region.end) == (1, 3, 23)


def test_turns_reach_every_process_as_ids() -> None:
    tokenizer = tiny.tokenizer()
    asked = {KEY: {"method": "sparsevlm+", "retain": 64, "turns": ["ASSISTANT :"]}}
    made = with_turns(asked, lambda: tokenizer)
    assert method_of(made) == SparseVLMPlus(64)
    assert turns_of(made) == Turns.of(["ASSISTANT :"], tokenizer)
    assert with_turns(made, lambda: pytest.fail("asked again")) == made
    off = {KEY: {"turns": False}}
    assert with_turns(off, lambda: pytest.fail("asked")) == off and turns_of(off) is None
    silent = {KEY: {"retain": 64}}
    assert with_turns(silent, lambda: tokenizer) == silent  # no chat template


@pytest.mark.parametrize("turns", [{"start": [[1]]}, {"end": [[1]], "stop": [[2]]}, [1.5], ["ASSISTANT:"]])
def test_turns_that_are_none(turns: Any) -> None:
    with pytest.raises(SparseSightError, match="turns"):
        method_of({KEY: {"turns": turns}})
