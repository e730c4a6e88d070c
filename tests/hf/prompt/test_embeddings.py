"""Prompts of embeddings for models that have placeholder ids, and reports after prompts that ran dense."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sparsesight import SparseSightError, sparsify, visual_tokens
from tests.hf.test_invariants import batch, close, model

HOW: dict[str, Any] = {
    "max_new_tokens": 4,
    "do_sample": False,
    "return_dict_in_generate": True,
    "output_logits": True,
}


def embedded(built: Any, prompt: Any) -> torch.Tensor:
    """What the decoder is given for a prompt."""
    seen: list[torch.Tensor] = []
    hook = built.get_decoder().register_forward_pre_hook(
        lambda m, a, kwargs: seen.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    with torch.no_grad():
        built(**prompt)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("how", [{}, {"num_beams": 2, "output_logits": False}])
@pytest.mark.parametrize("method", ["sparsevlm+", "sparsevlm", "divprune"])
def test_ids_that_come_along_are_used(method: str, how: dict[str, Any]) -> None:
    """As if there were no embeddings: also of a batch, and after it another call."""
    built, prompt = model("llava"), batch("llava")
    embeds = embedded(built, prompt)
    with sparsify(built, method, retain=0.4) as run:
        expected = built.generate(**prompt, **HOW | how)
        kept, report = run.kept, run.report.to_json()
        built.generate(**batch("llava", (3,)), max_new_tokens=1)
        both = {"input_ids": prompt["input_ids"], "attention_mask": prompt["attention_mask"]}
        out = built.generate(**both, inputs_embeds=embeds, **HOW | how)
        assert run.report.to_json() == report
        assert all(
            torch.equal(a, b) for s, t in zip(kept, run.kept, strict=True) for a, b in zip(s, t, strict=True)
        )
    assert torch.equal(out.sequences, expected.sequences)
    if expected.logits is not None:
        close(torch.stack(out.logits), torch.stack(expected.logits))


@pytest.mark.parametrize("entrance", ["generate", "model", "base", "decoder"])
def test_embeddings_alone_are_refused(entrance: str) -> None:
    """One sentence that says what to do, before any layer runs; not dense in silence."""
    built, prompt = model("llava"), batch("llava", (0,))
    embeds, mask = embedded(built, prompt), prompt["attention_mask"]
    call = {"generate": built.generate, "model": built, "base": built.model, "decoder": built.get_decoder()}[
        entrance
    ]
    visual = prompt["input_ids"] == built.config.image_token_id
    calls: list[int] = []
    with sparsify(built, retain=0.4) as run, torch.no_grad():
        hook = built.get_decoder().layers[0].register_forward_pre_hook(lambda *a: calls.append(1))
        with pytest.raises(SparseSightError, match=r"inputs_embeds: .*with visual_tokens\(model, mask\)"):
            call(inputs_embeds=embeds, attention_mask=mask)
        assert not calls
        hook.remove()
        built.generate(**prompt, max_new_tokens=1)
        kept = run.kept
        with visual_tokens(built, None):
            call(inputs_embeds=embeds[:, -5:], attention_mask=mask[:, -5:])
        assert run.report.samples[0].visual_tokens == 0 and run.kept == []
        with visual_tokens(built, visual):
            call(inputs_embeds=embeds, attention_mask=mask)
        assert all(torch.equal(a[0], b[0]) for a, b in zip(kept, run.kept, strict=True))


def test_embeddings_alone_are_refused_over_a_kept_cache() -> None:
    """They may bring a picture as well."""
    built, prompt = model("llava"), batch("llava", (0,))
    embeds = embedded(built, prompt)
    with sparsify(built, retain=0.4) as run, torch.no_grad():
        cache = built(**prompt, use_cache=True).past_key_values
        report = run.report.to_json()
        with pytest.raises(SparseSightError, match="inputs_embeds: in embeddings alone"):
            built(inputs_embeds=embeds, past_key_values=cache)
        assert run.report.to_json() == report and cache.get_seq_length() == embeds.shape[1]
        built(inputs_embeds=embeds[:, -1:], past_key_values=cache)  # a step brings none
        with visual_tokens(built, None):
            built(inputs_embeds=embeds[:, -5:], past_key_values=cache)
        assert run.report.samples[0].visual_tokens == 0


def test_a_prompt_that_ran_dense_is_what_is_reported() -> None:
    """Whatever was the reason: the report, what was kept, choices, raters and trace are not of a call before."""
    built, prompt, text = model("llava"), batch("llava", (0,)), batch("llava", (2,))
    decoder, embed = built.get_decoder(), built.get_input_embeddings()
    ids = text["input_ids"]

    def turn(**second: Any) -> Any:
        cache = built(**text).past_key_values
        built(**prompt)
        return lambda: built(**second, past_key_values=cache)

    def told(call: Any) -> Any:
        def within() -> None:
            with visual_tokens(built, None):
                call()

        return within

    ways = {
        "a prompt of text": lambda: built(**text),
        "of one token": lambda: built(input_ids=ids[:, :1]),
        "of one embedding": lambda: built(inputs_embeds=embed(ids[:, :1])),
        "the decoder alone": lambda: decoder(input_ids=ids),
        "the decoder alone, one token": lambda: decoder(input_ids=ids[:, :1]),
        "generation": lambda: built.generate(**text, max_new_tokens=2),
        "generation of one token": lambda: built.generate(ids[:, :1], max_new_tokens=2),
    }
    with sparsify(built, retain=0.4, trace=True) as run, torch.no_grad():
        ways |= {
            "a turn of ids": turn(input_ids=ids),
            "a turn of embeddings": told(turn(inputs_embeds=embed(ids))),
        }
        for name, run_dense in ways.items():
            built(**prompt)
            assert run.report.samples[0].visual_tokens == 64 and run.kept and run.trace
            run_dense()
            assert run.report.samples[0].visual_tokens == 0, name
            assert run.kept == [] and run.choices() == [] and run.trace == [], name
            assert not run.raters().any(), name
        built.generate(**prompt, max_new_tokens=4)  # steps are no prompts
        assert run.report.samples[0].visual_tokens == 64 and run.kept
