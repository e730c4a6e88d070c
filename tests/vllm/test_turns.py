"""Which turn judges, in vLLM: from ids alone, alike in front end, scheduler and worker, and as in transformers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from sparsesight import SparseVLMPlus
from sparsesight.core.turns import Turns
from sparsesight.errors import SparseSightError
from sparsesight.vllm.config import KEY, RequestBudget, method_of, turns_of, with_turns
from sparsesight.vllm.planner import Step, choice_of, plan_step
from sparsesight.vllm.prefill import Prefill
from sparsesight.vllm.state import Removed
from tests.hf import tiny

LAYERS, STAGES = 8, (1, 3)
TURNS = Turns(((7, 8),), template=(1, 2))
# Visual tokens are 9, a turn ends with 7 8, questions are 3 to 6.
CHAT = [1, *[9] * 20, 3, 4, 7, 8, 5, 2, *[9] * 30, 3, 7, 8, 6, 2, 3, 7, 8]
FRONT = [1, 3, 4, *[9] * 20, 2, 7, 8]


def choice(ids: list[int], turns: Turns | None = TURNS, **method: Any) -> Any:
    asked = RequestBudget(SparseVLMPlus(0.5, STAGES, **method), named=True)
    tokens = np.array(ids)
    return choice_of(asked, tokens == 9, tokens, turns, LAYERS, STAGES)


def test_every_turn_has_its_own_budget() -> None:
    found = choice(CHAT)
    method = SparseVLMPlus(0.5, STAGES)
    assert found.parts == (method.plan(20, LAYERS, STAGES), method.plan(30, LAYERS, STAGES))
    assert found.schedule.visual == 50
    for stage, *own in zip(found.schedule.stages, *(part.stages for part in found.parts), strict=True):
        assert stage.tokens_out == sum(x.tokens_out for x in own)
    assert [size.text for size in found.regions.sizes] == [(4,), (3,)]


def test_without_marks_and_by_the_published_rule_all_text_judges() -> None:
    for found in (choice(CHAT, None), choice(CHAT, judged_by="prompt")):
        assert found.regions is None and found.text == 8
        assert found.schedule == SparseVLMPlus(0.5, STAGES).plan(50, LAYERS, STAGES)


def test_a_step_prunes_by_turns() -> None:
    tokens = np.array(CHAT)
    one = Step(*(np.array([x], np.int64) for x in (len(CHAT), 0, len(CHAT), 3)), ids=lambda r: tokens)
    asked = RequestBudget(SparseVLMPlus(0.5, STAGES), named=True)
    plan = plan_step(one, Removed(2), tokens == 9, lambda r: asked, LAYERS, STAGES, TURNS)
    (prompt,) = plan.prompts
    out = [stage.tokens_out for stage in prompt.schedule.stages]
    assert plan.query[:, 0].tolist() == [len(CHAT) - 50 + x for x in out]
    prefill = Prefill.of(prompt, STAGES, torch.device("cpu"))
    assert prefill.rows.region is not None and len(prefill.counts) == 2 and not prefill.in_front
    judges = prefill.rows.text[0].nonzero()[:, 0].tolist()
    assert judges == [21, 22, 23, 24, 57, 58, 59]


def test_a_question_in_front_judges() -> None:
    found = choice(FRONT)
    assert found.regions.in_front == [[True]] and found.regions.sizes[0].text == (2,)


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


def test_the_scheduler_counts_as_the_worker() -> None:
    removed_of = pytest.importorskip("sparsesight.vllm.kv_groups").removed_of
    places = [(1, 20), (27, 56)]
    features = [
        SimpleNamespace(
            mm_position=SimpleNamespace(
                get_num_embeds=lambda a=a, b=b: b - a + 1, extract_embeds_range=lambda a=a, b=b: [(a, b)]
            )
        )
        for a, b in places
    ]
    request = SimpleNamespace(
        mm_features=features,
        num_prompt_tokens=len(CHAT),
        prompt_token_ids=CHAT,
        sampling_params=SimpleNamespace(extra_args=None),
    )
    found = removed_of(request, SparseVLMPlus(0.5, STAGES), STAGES, LAYERS, TURNS)
    assert found == (0, *(50 - stage.tokens_out for stage in choice(CHAT).schedule.stages))
