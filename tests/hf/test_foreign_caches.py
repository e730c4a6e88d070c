"""A cache that was filled under one sparsification and is used under another, or by the plain model."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from sparsesight import SparseSightError, SparseVLM, sparsify
from sparsesight.method_names import DEFAULT
from tests.hf import tiny
from tests.hf.families import ALL
from tests.hf.families.base import SAMPLES, Sample
from tests.hf.test_invariants import NEW, batch, processor
from tests.in_turn import in_turn

FILLED = {"method": "sparsevlm+", "retain": 20}
SENTENCE = r"this cache was filled by sparsevlm\+\(retain=20\) pruning after layers \(0, 1, 3\)"
OTHERS: list[dict[str, Any]] = [
    {"method": "fastv", "retain": 30},
    {"method": "sparsevlm+", "retain": 20, "layers": (1, 4)},
    {"method": "divprune", "retain": 20},
    {**FILLED, "trim_early_layers": True},
    {"method": SparseVLM(20, positions="compact")},
]
HOW: dict[str, Any] = {"max_new_tokens": NEW, "do_sample": False}


def filled(built: Any, method: Any = None, **how: Any) -> tuple[DynamicCache, torch.Tensor, list[int]]:
    """A cache, the ids of a second turn, and a list that is told whenever the decoder's first layer runs."""
    cache = DynamicCache(config=built.config.get_text_config())
    with sparsify(built, **(how or FILLED)):
        out = built.generate(**batch("llava", (0,)), past_key_values=cache, **HOW)
    more = tiny.inputs(processor("llava"), [("what is the blue ring ?", [])])["input_ids"]
    ran: list[int] = []
    layer = built.get_decoder().layers[0]
    layer.register_forward_pre_hook(lambda *_: ran.append(1))
    return cache, torch.cat((out, more), 1), ran


def lengths(cache: DynamicCache) -> list[int]:
    return [layer.keys.shape[-2] for layer in cache.layers]


def turn(built: Any, ids: torch.Tensor, cache: DynamicCache, way: str) -> Any:
    if way == "generate":
        return built.generate(ids, attention_mask=torch.ones_like(ids), past_key_values=cache, **HOW)
    past = cache.get_seq_length()
    with torch.no_grad():
        return built(input_ids=ids[:, past:], past_key_values=cache)


@pytest.mark.parametrize(
    ("attention", "way"), in_turn(["eager", "sdpa", "flex_attention"], ["generate", "forward"])
)
def test_the_plain_model_says_what_filled_it(attention: str, way: str) -> None:
    built = tiny.model("llava", attention)
    cache, ids, ran = filled(built)
    before = lengths(cache)
    for own in (cache, copy.deepcopy(cache)):
        with pytest.raises(SparseSightError, match=SENTENCE):
            turn(built, ids, own, way)
    assert not ran and lengths(cache) == before
    with sparsify(built, **FILLED):  # the same again goes on
        assert turn(built, ids, cache, way) is not None


@pytest.mark.parametrize(("other", "way"), in_turn(OTHERS, ["generate", "forward"]), ids=str)
def test_another_handle_says_what_filled_it(other: dict[str, Any], way: str) -> None:
    built = tiny.model("llava")
    cache, ids, ran = filled(built)
    before = lengths(cache)
    with sparsify(built, **other), pytest.raises(SparseSightError, match=SENTENCE):
        turn(built, ids, cache, way)
    assert not ran and lengths(cache) == before


@pytest.mark.parametrize("other", [FILLED, {**FILLED, "retain": 30}, {**FILLED, "retain": 1.0}], ids=str)
def test_a_handle_that_prunes_after_the_same_layers_goes_on(other: dict[str, Any]) -> None:
    built = tiny.model("llava")
    cache, ids, _ = filled(built)
    with sparsify(built, **FILLED):
        wanted = turn(built, ids, copy.deepcopy(cache), "generate")
    with sparsify(built, **other):
        assert torch.equal(turn(built, ids, cache, "generate"), wanted)


def test_a_cache_that_was_reset_is_anybodys() -> None:
    built = tiny.model("llava")
    cache, _, _ = filled(built)
    cache.reset()
    prompt = batch("llava", (2,))
    assert torch.equal(
        built.generate(**prompt, past_key_values=cache, **HOW), built.generate(**prompt, **HOW)
    )


@pytest.mark.parametrize("name", ["gemma3", "gemma4", "qwen3_5", "lfm2_vl", "llama4", "nemotron_h_omni"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_every_kind_of_layer(name: str, attention: str) -> None:
    """Windows, chunks, borrowed keys, layers without keys: nothing is written before the sentence."""
    family = next(f for f in ALL if f.name == name)
    if family.missing:
        pytest.skip(family.missing)
    built = family.build(attention)
    how = {"retain": (9,), "layers": family.stages} if family.stages else {"retain": 0.4}
    with sparsify(built, **how):
        out = built.generate(**family.prompts([SAMPLES[0]]), return_dict_in_generate=True, **HOW)
    cache, more = out.past_key_values, family.prompts([Sample("what is a star ?")])["input_ids"]
    before = copy.deepcopy([vars(layer) for layer in cache.layers])
    ids = torch.cat((out.sequences, more), 1)
    with pytest.raises(SparseSightError, match=f"this cache was filled by {DEFAULT}"):
        built.generate(ids, attention_mask=torch.ones_like(ids), past_key_values=cache, **HOW)
    for now, then in zip(cache.layers, before, strict=True):
        for key, value in then.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(getattr(now, key), value), key
