"""What an engine is told where its user has left it open, and that nothing is changed where it was not."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from sparsesight import SparseSightError, bundled
from sparsesight.vllm.stats import Tally

pytestmark = pytest.mark.vllm

ENTRY = {"sparsesight": {"retain": 64}}
MODEL = str(bundled.MODEL_PATH)


def arguments(**given: Any) -> Any:
    from vllm import EngineArgs

    return EngineArgs(**{"model": MODEL, "dtype": "float32", "additional_config": ENTRY, **given})


def config(**given: Any) -> Any:
    return arguments(**given).create_engine_config()


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine with a GPU, of what is set."""
    monkeypatch.setattr("sparsesight.vllm.frontend.records_graphs", lambda: True)


def test_what_was_left_open_is_set_with_a_reason(said: Any) -> None:
    made = config()
    assert made.cache_config.enable_prefix_caching and made.scheduler_config.enable_chunked_prefill
    assert made.cache_config.block_size == 32
    assert said.messages == [
        "sparsesight sets block_size=32: pruning removes whole blocks of keys, and small ones keep fewer tokens beyond "
        "the budget",
    ]


def test_steps_grow_to_the_largest_picture_only(said: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    vanilla = config(additional_config={}).scheduler_config.max_num_batched_tokens
    assert config().scheduler_config.max_num_batched_tokens == vanilla
    monkeypatch.setattr("sparsesight.vllm.frontend.longest_region", lambda config: vanilla + 100)
    assert config().scheduler_config.max_num_batched_tokens == vanilla + 100
    assert f"sets max_num_batched_tokens={vanilla + 100}: the largest picture" in said.messages[-1]
    assert config(max_num_batched_tokens=512).scheduler_config.max_num_batched_tokens == 512


@pytest.mark.parametrize(("limit", "pictures"), [(None, 1), ({"image": 1}, 1), ({"image": 0}, 0)])
def test_the_largest_region_is_that_of_the_allowed_pictures(limit: Any, pictures: int) -> None:
    from sparsesight.vllm.step_size import TEXT, longest_region

    given = {} if limit is None else {"limit_mm_per_prompt": limit}
    made = config(**given, additional_config={})
    assert longest_region(made) == (min(576 * pictures + TEXT, 1024) if pictures else 0)


def test_graphs_are_those_of_vllm(said: Any, graphs: None) -> None:
    given, vanilla = arguments(), arguments(additional_config={})
    made = given.create_engine_config()
    assert made.cache_config.block_size == 16
    assert given.compilation_config == vanilla.compilation_config
    assert not any("cudagraph" in message for message in said.messages)


def test_what_the_user_chose_stays_or_is_refused(said: Any) -> None:
    made = config(enable_chunked_prefill=True, enable_prefix_caching=False, block_size=64)
    assert made.cache_config.enable_prefix_caching is False and made.cache_config.block_size == 64
    assert not said.messages
    with pytest.raises(SparseSightError, match="--scheduler-cls"):
        config(scheduler_cls="vllm.v1.core.sched.scheduler.Scheduler")


def test_a_model_that_pools_is_refused() -> None:
    assert (
        config(runner="pooling", convert="embed", additional_config={}).model_config.runner_type == "pooling"
    )
    with pytest.raises(SparseSightError, match=r"pooling .*--runner generate"):
        config(runner="pooling", convert="embed")


def test_without_an_entry_nothing_is_set(said: Any, graphs: None) -> None:
    given = arguments(additional_config={})
    before = deepcopy((given.enable_prefix_caching, given.enable_chunked_prefill, given.compilation_config))
    assert before[0] is before[1] is before[2].cudagraph_mode is None
    made = given.create_engine_config()
    assert made.cache_config.enable_prefix_caching and made.scheduler_config.enable_chunked_prefill
    assert not said.messages


def test_an_engine_of_a_model_and_an_entry_alone_answers() -> None:
    from vllm import LLM

    from .engines import answers, close, prompt, pruner, questions, sampling

    asked = questions()[:2]
    llm = LLM(MODEL, additional_config=ENTRY)
    try:
        found = answers(llm, [prompt(*one) for one in asked], sampling())
        assert pruner(llm).tally == Tally(pruned=2) and all(len(ids) == 8 for ids, _ in found)
    finally:
        close(llm)
