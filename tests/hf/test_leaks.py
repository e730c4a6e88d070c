"""Many calls leave nothing behind; a model too large to touch is not touched."""

from __future__ import annotations

import copy
import gc
import weakref
from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AttentionInterface,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from sparsesight import sparsify
from sparsesight.hf.hooks import Hooks
from sparsesight.hf.pruned_layer import PrunedLayer
from sparsesight.hf.state import ForwardState
from tests.hf import tiny
from tests.hf.test_invariants import batch, fingerprint


def census(built: Any) -> Counter[str]:
    """What is alive: objects by what they are, hooks on the model."""
    gc.collect()
    found: Counter[str] = Counter()
    for thing in gc.get_objects():
        for kind in (torch.Tensor, ForwardState, Hooks, PrunedLayer):
            if type(thing) is kind or (kind is PrunedLayer and isinstance(thing, kind)):
                found[kind.__name__] += 1
    found["hooks"] = sum(
        len(v)
        for m in built.modules()
        for k, v in vars(m).items()
        if k[-6:] == "_hooks" and isinstance(v, dict)
    )
    return found


def call_often(times: int) -> None:
    built = tiny.model("llava")
    prompts = [batch("llava", (i,)) for i in (0, 1, 2, 3)]
    ways: list[dict[str, Any]] = [{}, {"num_beams": 2}, {"use_cache": False}, {"prompt_lookup_num_tokens": 2}]

    def calls(count: int) -> None:
        for i in range(count):
            way = ways[i // 4 % 4]
            built.generate(**prompts[i % 4], max_new_tokens=2, do_sample=False, **way)

    def cycles(count: int) -> None:
        for _ in range(count):
            with sparsify(built, "sparsevlm+", retain=0.4) as run:
                calls(2)
                assert run.kept
        del run

    with sparsify(built, "sparsevlm+", retain=0.4):
        calls(16)
        before = census(built)
        calls(times)
        assert census(built) == before
    cycles(2)
    before = census(built)
    cycles(times // 10)
    assert census(built) == before
    assert before["Hooks"] == before["PrunedLayer"] == before["ForwardState"] == 0


def test_many_calls_leave_nothing() -> None:
    call_often(16)  # each prompt in each way


@pytest.mark.slow
def test_a_thousand_calls_leave_nothing() -> None:
    call_often(1000)


@pytest.mark.parametrize("method", ["sparsevlm+", pytest.param("fastervlm", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:the handle:ResourceWarning")
def test_a_model_that_is_dropped_takes_its_names_along(method: str) -> None:
    """The registry of attention functions is the process's, and outlives a model that nobody restored."""
    before = dict(AttentionInterface._global_mapping)
    built = copy.deepcopy(tiny.model("llava"))
    run = sparsify(built, method, retain=0.4)
    built.generate(**batch("llava", (0,)), max_new_tokens=1)
    gone = weakref.ref(built)
    del built
    gc.collect()
    assert AttentionInterface._global_mapping != before and run.kept, "the handle keeps it"
    del run
    gc.collect()
    assert gone() is None and AttentionInterface._global_mapping == before


class Sizes(TorchDispatchMode):
    """Notes how many elements each tensor has that an operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.made.append(out.numel())
        return out


def test_a_model_of_seven_billion_weights_is_not_touched() -> None:
    """On the meta device, where reading a weight raises; and nothing of a size is made."""
    text = LlamaConfig(
        hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32
    )
    vision = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=2, num_attention_heads=16, image_size=336,
        patch_size=14,
    )  # fmt: skip
    with torch.device("meta"):
        built = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text))
    assert sum(p.numel() for p in built.parameters()) > 6e9
    before = fingerprint(built)
    with Sizes() as sizes:
        run = sparsify(built, "sparsevlm+", retain=64)
        during = {k: (id(p), p._version) for k, p in built.named_parameters()}
        run.restore()
    assert during == before["parameters"] and fingerprint(built) == before
    assert max(sizes.made, default=0) < 10_000
