"""Hidden states and attentions: as long as the input, as in the oracle, zero where tokens were dropped."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sparsesight import SparseVLMPlus, sparsify
from tests.hf import tiny
from tests.hf.oracle import masked_layers
from tests.hf.test_invariants import batch, close

NEW = 3


def dense_outputs(
    built: Any, ids: torch.Tensor, kept: list[torch.Tensor], layers: Any, **pictures: Any
) -> Any:
    with masked_layers(built, ids, kept, layers), torch.no_grad():
        return built(
            input_ids=ids[None],
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            output_hidden_states=True,
            output_attentions=True,
            **pictures,
        )


@pytest.mark.parametrize("captured_before", [False, True])
def test_of_a_prefill(captured_before: bool) -> None:
    """transformers installs its own hooks when outputs are first asked for: before ours or after."""
    built, prompt = tiny.model("llava", "eager"), batch("llava", (0,))
    asked = {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        if captured_before:
            built(**prompt, **asked)
        with sparsify(built, retain=0.4) as run:
            out = built(**prompt, **asked)
            kept, layers = [stage[0] for stage in run.kept], run.layers
            plain = built(**prompt)
    assert torch.equal(plain.logits, out.logits)
    ids = prompt["input_ids"][0]
    expected = dense_outputs(built, ids, kept, layers, pixel_values=prompt["pixel_values"])
    visual = (ids == built.config.image_token_id).nonzero()[:, 0]
    assert len(out.hidden_states) == tiny.LAYERS + 1 and len(out.attentions) == tiny.LAYERS
    for i in range(tiny.LAYERS):
        gone = dropped(visual, kept, layers, i)
        there = torch.ones(len(ids), dtype=torch.bool)
        there[gone] = False
        hidden = out.hidden_states[i + 1][0]
        assert hidden.shape == (len(ids), 64) and not hidden[gone].any()
        close(hidden[there], expected.hidden_states[i + 1][0][there])
        weights = out.attentions[i][0]
        assert weights.shape == (4, len(ids), len(ids)) and not weights[:, gone].any()
        close(weights[:, there], expected.attentions[i][0][:, there])
    there = torch.ones(len(ids), dtype=torch.bool)
    there[dropped(visual, kept, layers, 0)] = False
    assert torch.equal(out.hidden_states[0][0, there], expected.hidden_states[0][0, there])


def dropped(visual: torch.Tensor, kept: list[torch.Tensor], layers: Any, layer: int) -> torch.Tensor:
    """Columns that ``layer`` no longer has."""
    stay = next((k for p, k in zip(reversed(layers), reversed(kept), strict=True) if layer > p), None)
    gone = torch.ones(len(visual), dtype=torch.bool)
    if stay is None:
        return visual[:0]
    gone[stay] = False
    return visual[gone]


@pytest.mark.parametrize("cached", [True, False])
def test_of_a_generation(cached: bool) -> None:
    """Every step's, also of a left-padded batch: each sample has what it has alone."""
    built, which = tiny.model("llava", "eager"), (0, 1, 2)
    how: dict[str, Any] = {"max_new_tokens": NEW, "do_sample": False, "return_dict_in_generate": True}
    how |= {"output_attentions": True, "output_hidden_states": True, "use_cache": cached}
    with sparsify(built, retain=0.4):
        together = built.generate(**batch("llava", which), **how)
        for i, sample in enumerate(which):
            prompt = batch("llava", (sample,))
            alone = built.generate(**prompt, **how)
            for step in range(NEW):
                rows = prompt["input_ids"].shape[1] + step if not cached or not step else 1
                for a, b in zip(together.attentions[step], alone.attentions[step], strict=True):
                    keys = prompt["input_ids"].shape[1] + step
                    assert b.shape == (1, 4, rows, keys)
                    close(a[i, :, -rows:, -keys:], b[0])
                for a, b in zip(together.hidden_states[step], alone.hidden_states[step], strict=True):
                    assert b.shape == (1, rows, 64)
                    close(a[i, -rows:], b[0])


def test_attention_of_a_decoding_step_is_the_oracles() -> None:
    built, prompt = tiny.model("llava", "eager"), batch("llava", (0,))
    how: dict[str, Any] = {"max_new_tokens": NEW, "do_sample": False, "return_dict_in_generate": True}
    with sparsify(built, SparseVLMPlus(0.4)) as run:
        out = built.generate(**prompt, **how, output_attentions=True)
        kept, layers = [stage[0] for stage in run.kept], run.layers
    expected = dense_outputs(built, out.sequences[0], kept, layers, pixel_values=prompt["pixel_values"])
    for layer, weights in enumerate(out.attentions[-1]):
        close(weights[0, :, 0], expected.attentions[layer][0, :, -2, :-1])
