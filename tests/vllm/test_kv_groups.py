"""Blocks for each stage of its own: the same answers from fewer blocks, and never from too few."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytestmark = pytest.mark.vllm

from sparsesight import SparseSightError, SparseVLM, SparseVLMPlus, UnsupportedModelError  # noqa: E402
from sparsesight.methods import Method  # noqa: E402
from sparsesight.vllm.stats import Tally  # noqa: E402

from .engines import answers, by_transformers, in_blocks, loaded, prompt, pruner, questions, same, sampling  # noqa: E402

SIZE = 32
SMALL = {"block_size": SIZE, "max_model_len": 700}


def grouped(method: Method) -> dict[str, Any]:
    return {"additional_config": {"sparsesight": {**method.to_dict(), "kv_groups": True}}}


def scheduler(llm: Any) -> Any:
    return llm.llm_engine.engine_core.engine_core.scheduler


def managers(llm: Any) -> Any:
    return scheduler(llm).kv_cache_manager.coordinator.single_type_managers


def blocks(llm: Any, one: Any) -> tuple[list[int], list[int]]:
    """How many blocks a prompt is given in each group after its first step, and the groups' stages."""
    core = llm.llm_engine
    core.add_request("counted", one, sampling())
    core.step()
    held = [list(manager.req_to_blocks.values()) for manager in managers(llm)]
    counts = [sum(not block.is_null for block in own) for (own,) in held]
    core.abort_request(["counted"])
    while core.has_unfinished_requests():
        core.step()
    return counts, [getattr(manager.kv_cache_spec, "stage", 0) for manager in managers(llm)]


def needed(one: Any, method: Method) -> list[int]:
    """How many blocks a prompt needs in the layers of each stage, the layers before the first stage first."""
    length = len(loaded()[1].tokenizer.encode(one["prompt"])) - 1 + 576  # tokens; one stands for the picture
    stages = in_blocks(method).plan(576, 8, method.stage_layers(8)).stages
    return [-(-(length - 576 + left) // SIZE) for left in (576, *(stage.tokens_out for stage in stages))]


@pytest.mark.parametrize(
    "method", [pytest.param(SparseVLM(64), marks=pytest.mark.slow), SparseVLMPlus(64)], ids=str
)
def test_the_same_answers_from_fewer_blocks(opened: Any, method: Method) -> None:
    prompts: list[Any] = [prompt(*x) for x in questions()]
    prompts.insert(2, {"prompt": "USER: what color is it? ASSISTANT:"})
    kinds = [None, {"sparsesight_retain": "none"}, None, {"sparsesight_retain": [200, 100, 50]}]
    params = [sampling(extra_args=kinds[i % 4]) for i in range(len(prompts))]
    llm = opened(method, **SMALL)
    expected = answers(llm, prompts, params)
    (shared,), _ = blocks(llm, prompts[0])
    llm = opened(method, **SMALL, **grouped(method))
    same(answers(llm, prompts, params), expected, 1e-5)
    assert pruner(llm).tally.pruned == 4  # the others want everything, or are texts
    counts, stages = blocks(llm, prompts[0])
    need = needed(prompts[0], method)
    assert counts == [need[stage] for stage in stages]
    layers = pruner(llm).num_layers
    assert len(counts) == layers  # a block is one layer's here, as there is one before the first stage
    assert sum(counts) < 0.6 * shared * layers
    for manager in managers(llm):
        assert not manager.regions and not manager.req_to_blocks


def test_a_scheduler_that_does_not_agree_is_noticed(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from sparsesight.vllm import kv_groups

    method = SparseVLMPlus(64)  # with the engine of the test before
    right = kv_groups.in_gap
    # One block more.
    monkeypatch.setattr(
        kv_groups, "in_gap", lambda regions, s, size, i: any(right(regions, s, size, i - j) for j in (0, 1))
    )
    llm = opened(method, **SMALL, **grouped(method))
    with pytest.raises(
        SparseSightError, match=r"has no block for some of the \d+ tokens that it holds in stage 1"
    ):
        answers(llm, [prompt(*questions()[0])], sampling())


def test_preempted_and_aborted_requests_and_prompts_in_parts(opened: Any) -> None:
    method = SparseVLMPlus(64)
    prompts = [prompt(*x) for x in questions()[:4]]
    layers = (1, 1, 2, 4)  # of the decoder's eight, before and after each stage; a block is one layer's
    each = sum(n * count for n, count in zip(layers, needed(prompts[0], method), strict=True))
    # The prompts fit, but not what is generated as well: they push each other out.
    llm = opened(method, **SMALL, **grouped(method), num_gpu_blocks_override=len(prompts) * each + 9)
    assert pruner(llm).stages == (0, 1, 3)
    alone = [answers(llm, [one], sampling(60))[0] for one in prompts]
    before = pruner(llm).tally.pruned
    core = llm.llm_engine
    for i, one in enumerate(prompts):
        core.add_request(f"gone{i}", one, sampling())
        core.step()
        core.abort_request([f"gone{i}"])
    same(answers(llm, prompts, sampling(60)), alone, 1e-4)
    assert pruner(llm).tally.pruned > before + 2 * len(prompts)  # some of them twice
    assert not any(manager.regions for manager in managers(llm))
    parts = {"max_num_batched_tokens": 256, "max_num_seqs": 4, "enable_chunked_prefill": True}
    llm = opened(method, **SMALL, **grouped(method), **parts)
    same(answers(llm, prompts[:3], sampling()), by_transformers(None, questions()[:3]), 1e-3)
    assert pruner(llm).tally == Tally(too_long=3)


def test_specs_of_different_stages_are_no_group() -> None:
    try:
        from vllm.v1.core.kv_cache_utils import is_kv_cache_spec_uniform
    except ImportError:  # vLLM 0.33
        from vllm.v1.core.kv_cache_planning import is_kv_cache_spec_uniform
    from vllm.v1.kv_cache_interface import FullAttentionSpec, SlidingWindowSpec
    from vllm.v1.kv_cache_spec_registry import KVCacheSpecRegistry

    from sparsesight.vllm.kv_groups import StageManager, StageSpec

    sizes: dict[str, Any] = {"block_size": 16, "num_kv_heads": 2, "head_size": 8, "dtype": torch.float32}
    full = FullAttentionSpec(**sizes)
    first, second = StageSpec.of(full, 0), StageSpec.of(full, 1)
    assert first.page_size_bytes == full.page_size_bytes
    assert is_kv_cache_spec_uniform({"a": first, "b": first})
    assert not is_kv_cache_spec_uniform({"a": first, "b": second})
    assert KVCacheSpecRegistry.get_manager_class(first) is StageManager
    assert KVCacheSpecRegistry.get_manager_class(full) is not None  # vLLM's own are still known
    with pytest.raises(UnsupportedModelError, match="SlidingWindowSpec"):
        StageSpec.of(SlidingWindowSpec(**sizes, sliding_window=8), 1)
