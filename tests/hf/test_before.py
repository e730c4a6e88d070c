"""Stages before the first layer: every layer, and its cache, sees what is left."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sparsesight import Compose, Random, SparseSightError, SparseVLMPlus, sparsify
from sparsesight.core.budget import BEFORE
from tests.hf import tiny
from tests.hf.families import ALL
from tests.hf.oracle import oracle_logits
from tests.hf.test_invariants import BACKENDS, NEW, batch, close, generate, model
from tests.in_turn import in_turn

ALONE = Random(0.4, (BEFORE,))
BOTH = Compose(Random(0.6, (BEFORE,)), SparseVLMPlus(0.6))


@pytest.mark.parametrize(
    ("family", "attention", "method"), in_turn(tiny.FAMILIES, BACKENDS, [BOTH, ALONE]), ids=str
)
def test_oracle_and_batch(family: str, attention: str, method: Any) -> None:
    built = model(family, attention)
    with sparsify(built, method) as run:
        _, logits, cache = generate(built, batch(family))
        together = run.kept
        assert run.layers[0] == BEFORE
        assert [x.keys.shape[2] for x in cache.layers] == [n + NEW - 1 for n in run.report.kv_lengths]
        for i in (0, 1):
            prompt = batch(family, (i,))
            own_tokens, own_logits, _ = generate(built, prompt)
            close(logits[i], own_logits[0])
            kept = [stage[0] for stage in run.kept]
            assert all(torch.equal(a[i], b) for a, b in zip(together, kept, strict=True))
            ids = torch.cat((prompt["input_ids"][0], own_tokens[0]))
            pictures = {k: v for k, v in prompt.items() if k not in ("input_ids", "attention_mask")}
            expected = oracle_logits(model(family), ids, kept, run.layers, **pictures)
            close(own_logits[0], expected[-NEW - 1 : -1])
    sample = run.report.samples[0]
    assert sample.visual_per_layer[0] == len(kept[0]) < sample.visual_tokens
    assert run.report.kv_bytes_sparse < run.report.kv_bytes_dense


def test_raters_are_of_what_enters_the_first_layer() -> None:
    built, prompt = model("llava"), batch("llava", (0,))
    with sparsify(built, BOTH, trace=True) as run:
        built(**prompt)
    first, second = run.trace[0], run.trace[1]
    assert not first.stage.rater.any() and first.stage.at is None
    visual = first.stage.features()[0][first.selection.keep[0]][None]
    text = first.stage.text_features()
    chosen = BOTH.select_raters(
        visual, text, torch.ones(visual.shape[:2], dtype=torch.bool), first.stage.text
    )
    assert torch.equal(second.stage.rater, chosen)
    assert first.stage.last_text()[0].nonzero().tolist() == [[text.shape[1] - 1]]


def test_hidden_states_have_the_length_of_the_input() -> None:
    built, prompt = model("llava", "eager"), batch("llava", (0,))
    with torch.no_grad(), sparsify(built, ALONE) as run:
        out = built(**prompt, output_hidden_states=True, output_attentions=True)
    length = prompt["input_ids"].shape[1]
    assert {x.shape[1] for x in out.hidden_states} == {length}
    assert {x.shape[2:] for x in out.attentions} == {(length, length)}
    visual = (prompt["input_ids"][0] == built.config.image_token_id).nonzero()[:, 0]
    gone = torch.ones(len(visual), dtype=torch.bool)
    gone[run.kept[0][0]] = False
    for states in out.hidden_states[1:]:
        assert (states[0, visual[gone]] == 0).all() and (states[0, visual[~gone]] != 0).any(1).all()


def test_attention_is_needed_where_it_is_read() -> None:
    with pytest.raises(SparseSightError, match="none before the first"):
        sparsify(model("llava"), SparseVLMPlus(64, (BEFORE, 3)))


def test_models_that_add_to_later_layers_are_refused() -> None:
    family = next(f for f in ALL if f.name == "qwen3_vl")
    built = family.build("sdpa")
    with pytest.raises(SparseSightError, match="this model cannot prune after"):
        sparsify(built, Random(64, (BEFORE,)))
