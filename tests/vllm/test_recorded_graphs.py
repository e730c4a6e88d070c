"""CUDA graphs of whole decoding steps: answers are those of steps that are not recorded."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.vllm

from sparsesight import SparseVLMPlus  # noqa: E402
from sparsesight.methods import METHODS  # noqa: E402

from .engines import answers, close, engine, prompt, pruner, questions, same, sampling  # noqa: E402


def runner_of(llm: Any) -> Any:
    return llm.llm_engine.model_executor.driver_worker.worker.model_runner


def asked() -> tuple[list[Any], list[Any]]:
    """Pictures at different budgets, one that is not pruned, and a text; they end one after another."""
    prompts: list[Any] = [prompt(*one) for one in questions()]
    budgets: list[Any] = [None, 90, "50%", "none", 100, None]
    params = [
        sampling(4 + 3 * i, extra_args={} if budget is None else {"sparsesight_retain": budget})
        for i, budget in enumerate(budgets)
    ]
    return [*prompts, {"prompt": "USER: Say something. ASSISTANT:"}], [*params, sampling(40)]


NGRAM = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3, "prompt_lookup_min": 1}


@pytest.mark.parametrize(
    ("method", "mode", "sizes", "given", "least"),
    [
        (SparseVLMPlus(40), "FULL_DECODE_ONLY", [1, 2, 4, 8], {}, 30),
        pytest.param(
            # Steps of prompts are dispatched as graphs as well; those that prune are padded and run eagerly.
            METHODS["halves"](40),
            "FULL",
            [8, 1024],
            {"kv_groups": True, "enable_prefix_caching": True},
            30,
            marks=pytest.mark.slow,
        ),
        pytest.param(
            SparseVLMPlus(40),
            "FULL_DECODE_ONLY",
            [4, 8, 16, 32],
            {"speculative_config": NGRAM},
            5,
            marks=pytest.mark.slow,
        ),
    ],
    ids=["decode", "mixed", "speculative"],
)
def test_answers_are_those_of_steps_that_are_not_recorded(
    method: Any,
    mode: str,
    sizes: list[int],
    given: dict[str, Any],
    least: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from vllm.config import CUDAGraphMode

    from .recorded_graphs import record, schedule_late

    schedule_late(monkeypatch)
    given = dict(given)
    entry = {**method.to_dict(), "kv_groups": given.pop("kv_groups", False)}
    llm = engine(method, additional_config={"sparsesight": entry}, **given)
    try:
        prompts, params = asked()
        wanted = answers(llm, prompts, params)
        model = record(runner_of(llm), CUDAGraphMode[mode], sizes)
        llm.reset_prefix_cache()
        same(answers(llm, prompts, params), wanted, 1e-5)
        # Steps were padded, and the last ones hold the text alone, in tables that prompts with gaps have used.
        assert any(count < padded for count, padded in model.replays) and model.replays[-1][0] == 1
        assert len(model.replays) > least
        same(answers(llm, prompts[::-1], params[::-1]), wanted[::-1], 1e-5)
    finally:
        close(llm)


@pytest.mark.parametrize("retain", [64, pytest.param("none", marks=pytest.mark.slow)])
def test_memory_is_measured_of_a_step_that_prunes(retain: Any) -> None:
    step = 2048
    entry = {"sparsesight": {"retain": retain}}
    llm = engine(SparseVLMPlus(64), additional_config=entry, max_num_batched_tokens=step)
    try:
        pruner(llm).keep_trace = True
        runner_of(llm).profile_run()  # vLLM's, which a CPU does without in these tests
        (rehearsed,) = pruner(llm).trace
        assert rehearsed.prompts[0].length == step
        runner_of(llm).profile_run()
        assert len(pruner(llm).trace) == 1
        answers(llm, [prompt(*questions()[0])], sampling(extra_args={"sparsesight_retain": 64}))
        assert len(pruner(llm).trace) == 2
        assert pruner(llm).tally.pruned == 1
    finally:
        close(llm)
