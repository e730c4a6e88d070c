"""The fast path is left wherever a program would not give what the ordinary way gives."""

from __future__ import annotations

from typing import Any

import torch

from sparsesight import sparsify
from tests.hf.test_invariants import batch, close, generate, model


def ordinary(run: Any) -> str:
    """Why the last prefill was none, from end to end."""
    assert run.fast is not None and not any(run.fast.ran)
    assert len(set(run.fast.why_not)) == 1
    return str(run.fast.why_not[0])


def test_falls_back_and_says_why() -> None:
    built = model("llava")
    one, padded = batch("llava", (0,)), batch("llava")
    with sparsify(built, "sparsevlm+", retain=0.4) as run:
        expected = generate(built, padded)[1]
    with sparsify(built, "sparsevlm+", retain=0.4, fast="plain") as run:
        for _ in range(2):
            generate(built, one)
        assert run.fast is not None and all(run.fast.ran)
        close(generate(built, padded)[1], expected)
        assert "mask" in ordinary(run)
        with torch.enable_grad():
            built(**one).logits.sum().backward()
        assert "gradients" in ordinary(run)
        assert built.get_decoder().layers[0].mlp.up_proj.weight.grad is not None
        built.zero_grad()
        with torch.no_grad():
            built(**one, output_hidden_states=True)
            assert "returned" in ordinary(run)
            handle = built.get_decoder().layers[5].mlp.register_forward_hook(lambda *_: None)
            built(**one)
            assert sum(run.fast.ran) == 3 and "LlamaMLP has hooks" in run.fast.why_not[0]
            handle.remove()
            built(**one)
            assert all(run.fast.ran)
            with torch.autocast("cpu", torch.bfloat16):
                built(**one)
            assert "autocast" in ordinary(run)
    with sparsify(model("llava", "eager"), retain=0.4, fast="plain") as run:
        for _ in range(2):
            generate(model("llava", "eager"), one)
        assert "mask" in ordinary(run)


def test_a_second_turn_goes_the_ordinary_way() -> None:
    built = model("llava")
    turns = [batch("llava", (0,)), batch("llava", (3,))]
    logits = []
    for fast in (False, "plain"):
        with sparsify(built, "sparsevlm+", retain=0.4, fast=fast) as run, torch.no_grad():
            for _ in range(2):
                cache = built(**turns[0]).past_key_values
            mask = torch.cat((turns[0]["attention_mask"], turns[1]["attention_mask"]), 1)
            more = {**turns[1], "attention_mask": mask}
            logits.append(built(**more, past_key_values=cache).logits)
            if fast:
                assert run.fast is not None and not any(run.fast.ran)
    close(*logits)
