"""FlashAttention's contract, with a stand-in kernel that reads masks and positions as the real one does.

It knows 2D masks only (padding is taken out, rows and keys are aligned at their ends) and takes a single sample whose
positions have gaps for several packed sequences.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import flash_attention_mask
from transformers.modeling_flash_attention_utils import _is_packed_sequence

from sparsesight import Method, SparseVLM, SparseVLMPlus, UnsupportedModelError, sparsify
from tests.hf import tiny
from tests.hf.oracle import oracle_logits
from tests.hf.test_invariants import NEW, batch, close, generate, model
from tests.in_turn import in_turn

NAME = "flash_stand_in"
packed: list[int] = []  # calls that were taken for packed sequences


def causal_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    """[h, m, d] over [h, n, d], aligned at the end."""
    m, n = q.shape[1], k.shape[1]
    seen = torch.arange(n) <= torch.arange(m)[:, None] + n - m
    return (q @ k.mT * scale).masked_fill(~seen, -torch.inf).softmax(-1) @ v


def stand_in(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    scaling: float,
    position_ids: Any = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    out = torch.zeros_like(query)
    assert attention_mask is None or attention_mask.ndim == 2
    if attention_mask is None and _is_packed_sequence(position_ids, query.shape[0]):
        packed.append(module.layer_idx)
        starts = [0, *(position_ids[0].diff() != 1).nonzero()[:, 0].add(1).tolist(), query.shape[2]]
        for a, b in itertools.pairwise(starts):
            out[0, :, a:b] = causal_attention(query[0, :, a:b], key[0, :, a:b], value[0, :, a:b], scaling)
        return out.transpose(1, 2), None
    for i in range(query.shape[0]):
        keys = slice(None) if attention_mask is None else attention_mask[i, : key.shape[2]].bool()
        rows = slice(None) if attention_mask is None else attention_mask[i, -query.shape[2] :].bool()
        out[i, :, rows] = causal_attention(query[i][:, rows], key[i][:, keys], value[i][:, keys], scaling)
    return out.transpose(1, 2), None


@pytest.fixture
def flash() -> Iterator[Any]:
    AttentionInterface.register(NAME, stand_in)
    AttentionMaskInterface.register(NAME, flash_attention_mask)
    built = tiny.model("llava")
    built.set_attn_implementation({"text_config": NAME})
    packed.clear()
    yield built
    AttentionInterface._global_mapping.pop(NAME, None)
    AttentionMaskInterface._global_mapping.pop(NAME, None)


METHODS: list[Method] = [SparseVLMPlus(0.4), SparseVLM(0.4), SparseVLM(0.4, positions="compact")]


def test_the_stand_in_is_attention(flash: Any) -> None:
    _, logits, _ = generate(flash, batch("llava"))
    close(logits, generate(model("llava"), batch("llava"))[1])


def test_the_stand_in_takes_gaps_for_packed_sequences(flash: Any) -> None:
    """Without this, the tests below prove nothing."""
    prompt = batch("llava", (2,))
    position = torch.arange(prompt["input_ids"].shape[1])[None]
    position = torch.where(position > 3, position + 5, position)
    with torch.no_grad():
        flash(input_ids=prompt["input_ids"], position_ids=position)
    assert packed


@pytest.mark.parametrize(("method", "which"), in_turn(METHODS, [(0, 1, 2, 3), (0,), (1,)]), ids=str)
def test_same_as_sdpa(flash: Any, method: Method, which: tuple[int, ...]) -> None:
    """Prefill and decoding of one sample with gapped positions, and of a ragged batch."""
    prompt = batch("llava", which)
    with sparsify(model("llava"), method) as run:
        _, expected, _ = generate(model("llava"), prompt)
        kept = run.kept
    with sparsify(flash, method) as run:
        _, logits, _ = generate(flash, prompt)
        for stage, other in zip(kept, run.kept, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(stage, other, strict=True))
    close(logits, expected)
    assert not packed


@pytest.mark.parametrize(
    "way", [{"num_beams": 3}, {"use_cache": False}, {"prompt_lookup_num_tokens": 2}], ids=str
)
def test_same_as_sdpa_in_other_ways(flash: Any, way: dict[str, Any]) -> None:
    prompt, how = batch("llava", (0,)), {"max_new_tokens": NEW, "do_sample": False, **way}
    with sparsify(model("llava"), retain=0.4):
        expected = model("llava").generate(**prompt, **how)
    with sparsify(flash, retain=0.4):
        assert torch.equal(flash.generate(**prompt, **how), expected)
    assert not packed


def test_no_weights_of_keys(flash: Any) -> None:
    """Refused by name: where it is installed, and where the implementation is set later."""
    with pytest.raises(
        UnsupportedModelError, match=rf"{NAME}.*FlashAttention takes no weight of single keys"
    ):
        sparsify(flash, "halves", proportional=True)
    flash.set_attn_implementation({"text_config": "sdpa"})
    with sparsify(flash, "tome", retain=0.4, proportional=True):
        flash.set_attn_implementation({"text_config": NAME})
        with pytest.raises(UnsupportedModelError, match="proportional=True"):
            generate(flash, batch("llava", (0,)))


def test_oracle(flash: Any) -> None:
    prompt = batch("llava", (0,))
    with sparsify(flash, retain=0.4) as run, torch.no_grad():
        logits = flash(**prompt).logits[0]
        kept, layers = [stage[0] for stage in run.kept], run.layers
    expected = oracle_logits(
        model("llava"), prompt["input_ids"][0], kept, layers, pixel_values=prompt["pixel_values"]
    )
    text = prompt["input_ids"][0] != flash.config.image_token_id
    close(logits[text], expected[text])
