"""Blocks for each stage of its own: the same answers from fewer blocks, and never from too few."""

from __future__ import annotations

from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed"),
]

from sparsesight import SparseSightError, SparseVLM, SparseVLMPlus, UnsupportedModelError  # noqa: E402
from sparsesight.methods import Method  # noqa: E402

from .engines import answers, prompt, pruner, questions, same, sampling  # noqa: E402

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
    counts = [len(own) for (own,) in held]
    core.abort_request(["counted"])
    while core.has_unfinished_requests():
        core.step()
    return counts, [getattr(manager.kv_cache_spec, "stage", 0) for manager in managers(llm)]


def needed(llm: Any, one: Any, method: Method) -> list[int]:
    """How many blocks a prompt needs in the layers of each stage, the layers before the first stage first."""
    length = len(llm.get_tokenizer().encode(one["prompt"])) - 1 + 576  # tokens; one stands for the picture
    stages = method.plan(576, 8, method.stage_layers(8)).stages
    return [-(-(length - 576 + left) // SIZE) for left in (576, *(stage.tokens_out for stage in stages))]


@pytest.mark.parametrize("method", [SparseVLMPlus(64), SparseVLM(64)], ids=str)
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
    need = needed(llm, prompts[0], method)
    assert counts == [need[stage] for stage in stages]
    layers = pruner(llm).num_layers
    assert len(counts) == layers  # a block is one layer's here, as there is one before the first stage
    assert sum(counts) < 0.6 * shared * layers
    for manager in managers(llm):
        assert not manager.removed and not manager.req_to_blocks


def test_preempted_and_aborted_requests_and_prompts_in_parts(opened: Any) -> None:
    method = SparseVLMPlus(64)
    prompts = [prompt(*x) for x in questions()]
    llm = opened(None, **SMALL)
    dense = answers(llm, prompts[:3], sampling())
    layers = (1, 1, 2, 4)  # of the decoder's eight, before and after each stage; a block is one layer's
    each = sum(n * count for n, count in zip(layers, needed(llm, prompts[0], method), strict=True))
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
    assert not any(manager.removed for manager in managers(llm))
    parts = {"max_num_batched_tokens": 256, "max_num_seqs": 4, "enable_chunked_prefill": True}
    llm = opened(method, **SMALL, **grouped(method), **parts)
    same(answers(llm, prompts[:3], sampling()), dense, 1e-3)
    assert pruner(llm).tally.pruned == 0 and pruner(llm).tally.chunked == 3


def test_a_scheduler_that_does_not_agree_is_noticed(
    opened: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from sparsesight.vllm import kv_groups

    method = SparseVLMPlus(64)
    right = kv_groups.removed_of

    def more(*given: Any) -> tuple[int, ...]:
        removed = right(*given)
        return (*removed[:-1], removed[-1] + SIZE)

    monkeypatch.setattr(kv_groups, "removed_of", more)
    llm = opened(method, **SMALL, **grouped(method))
    with pytest.raises(SparseSightError, match=r"stage 3, but the scheduler has allocated blocks for"):
        answers(llm, [prompt(*questions()[0])], sampling())


def place(start: int, length: int, embeds: list[bool] | None = None) -> Any:
    from vllm.multimodal.inputs import PlaceholderRange

    return SimpleNamespace(
        mm_position=PlaceholderRange(start, length, None if embeds is None else torch.tensor(embeds))
    )


def test_what_a_request_loses_follows_from_sizes() -> None:
    from sparsesight.vllm.kv_groups import removed_of

    method, stages = SparseVLMPlus((30, 20, 10)), (0, 1, 3)

    def removed(prompt_tokens: int, *places: Any, extra_args: Any = None) -> tuple[int, ...]:
        params = SimpleNamespace(extra_args=extra_args)
        request = SimpleNamespace(mm_features=places, num_prompt_tokens=prompt_tokens, sampling_params=params)
        return removed_of(request, method, stages, 8)

    nothing = (0, 0, 0, 0)
    assert removed(60, place(5, 50)) == (0, 20, 30, 40)
    assert removed(120, place(5, 25), place(60, 25)) == (0, 20, 30, 40)
    # Placeholders that are no visual tokens, such as line breaks, do not count.
    assert removed(60, place(5, 52, [True] * 50 + [False] * 2)) == (0, 20, 30, 40)
    assert removed(57, place(5, 52, [True] * 50 + [False] * 2)) == (0, 20, 30, 40)
    assert removed(55, place(5, 50)) == nothing  # no text follows
    assert removed(9) == nothing
    assert removed(60, place(5, 50), extra_args={"sparsesight_retain": "none"}) == nothing
    assert removed(60, place(5, 50), extra_args={"sparsesight_retain": -1}) == nothing
    assert removed(60, place(5, 50), extra_args={"sparsesight_retain": [50, 50, 5]}) == (0, 0, 0, 45)
    # A default that cannot be met stays after every stage, one that the request names is kept dense.
    method, stages = SparseVLMPlus(5), (4, 5, 6)
    assert removed(60, place(5, 50)) == (0, 45, 45, 45)
    assert removed(60, place(5, 50), extra_args={"sparsesight_retain": 5}) == nothing


def test_specs_of_different_stages_are_no_group() -> None:
    from vllm.v1.core.kv_cache_utils import is_kv_cache_spec_uniform
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
