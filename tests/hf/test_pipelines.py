"""Pipelines, chat templates and the smaller ways of generating, unchanged inside the context."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList, pipeline

from sparsesight import sparsify
from tests.hf import tiny
from tests.hf.test_installed import plain_state
from tests.hf.test_invariants import NEW, batch, generate, model

TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} : {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT :{% endif %}"
)
HOW: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False}


def chat(*texts: str) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [{"type": "text", "text": text} for text in texts]
    return [{"role": "USER", "content": [{"type": "image", "image": tiny.picture(1)}, *parts]}]


def templated() -> Any:
    tools = tiny.processor("llava")
    tools.chat_template = TEMPLATE
    return tools


def test_chat_template() -> None:
    """The same tokens as from the prompt it writes, dense and sparse."""
    built, tools = model("llava"), templated()
    messages = chat("what is the red star ?")
    inputs = tools.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    written = tiny.inputs(
        tools, [("USER : <image> what is the red star ? ASSISTANT :", [messages[0]["content"][0]["image"]])]
    )
    assert torch.equal(inputs["input_ids"], written["input_ids"])
    with sparsify(built, retain=0.4) as run:
        sparse = built.generate(**inputs, **HOW)
        assert run.kept and torch.equal(sparse, built.generate(**written, **HOW))


@pytest.mark.parametrize("made", ["before", "inside"])
def test_image_text_to_text_pipeline(made: str) -> None:
    built, tools = tiny.model("llava"), templated()

    def pipe() -> Any:
        return pipeline("image-text-to-text", model=built, processor=tools)

    early = pipe() if made == "before" else None
    messages = chat("what is left of the blue ring ?")
    inputs = tools.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    with sparsify(built, retain=0.3) as run:
        tokens = built.generate(**inputs, **HOW)
        kept = run.kept
        ask = early or pipe()
        (answer,) = ask(text=messages, return_full_text=False, generate_kwargs=HOW)
        assert all(torch.equal(a[0], b[0]) for a, b in zip(kept, run.kept, strict=True))
        said = tools.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert answer["generated_text"].strip() == said.strip()
        many = ask(
            text=[chat("how many star ?"), messages],
            return_full_text=False,
            generate_kwargs=HOW,
            batch_size=2,
        )
        assert many[1][0]["generated_text"].strip() == said.strip()
    assert not plain_state(built)
    (dense,) = ask(text=messages, return_full_text=False, generate_kwargs=HOW)
    ids = built.generate(**inputs, **HOW)[0, inputs["input_ids"].shape[1] :]
    assert dense["generated_text"].strip() == tools.decode(ids, skip_special_tokens=True).strip()


class NeverTwice(LogitsProcessor):
    """Forbids what has been generated."""

    def __init__(self, prompt: int) -> None:
        self.prompt = prompt

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores.scatter(1, input_ids[:, self.prompt :], -torch.inf)


@pytest.mark.parametrize("beams", [1, 3])
def test_custom_logits_processor(beams: int) -> None:
    """With and without a cache alike; a batch as alone."""
    built, prompt = model("llava"), batch("llava", (0, 1))
    length = prompt["input_ids"].shape[1]
    how = {**HOW, "num_beams": beams, "logits_processor": LogitsProcessorList([NeverTwice(length)])}
    with sparsify(built, retain=0.4):
        tokens = built.generate(**prompt, **how)
        assert torch.equal(tokens, built.generate(**prompt, **how, use_cache=False))
        for i in (0, 1):
            own = batch("llava", (i,))
            how["logits_processor"] = LogitsProcessorList([NeverTwice(own["input_ids"].shape[1])])
            assert torch.equal(built.generate(**own, **how)[0, -5:], tokens[i, -5:])
    said = tokens[:, length:]
    assert all(len(set(row.tolist())) == 5 for row in said)


def test_classifier_free_guidance() -> None:
    """It runs the model on a prompt of its own inside the generation."""
    built, prompt = model("llava"), batch("llava", (0,))
    how = {**HOW, "guidance_scale": 1.5, "output_logits": True, "return_dict_in_generate": True}
    with sparsify(built, retain=0.4) as run:
        guided = built.generate(**prompt, **how)
        kept = run.kept
        assert torch.equal(guided.sequences, built.generate(**prompt, **how, use_cache=False).sequences)
        plain = generate(built, prompt)[0]
        assert all(torch.equal(a[0], b[0]) for a, b in zip(kept, run.kept, strict=True))
    assert plain.shape == (1, NEW) and guided.sequences.shape == (1, prompt["input_ids"].shape[1] + 5)


def test_stop_strings() -> None:
    """Generation ends with the string, where the unstopped one had it."""
    built, prompt = model("llava"), batch("llava", (0,))
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens(["abcdef"])  # transformers tries the tokenizer with it
    words = {"suppress_tokens": [*range(5), *range(len(tiny.WORDS), 40)]}
    with sparsify(built, retain=0.4):
        tokens = generate(built, prompt, **words)[0][0].tolist()
        word = tokenizer.decode(tokens[2:3])
        stopped = built.generate(**prompt, **HOW, **words, stop_strings=[word], tokenizer=tokenizer)
    assert stopped[0, prompt["input_ids"].shape[1] :].tolist() == tokens[: tokens.index(tokens[2]) + 1]


@pytest.mark.parametrize("cached", [True, False])
def test_sampling_with_beams(cached: bool) -> None:
    built, prompt = model("llava"), batch("llava", (0, 1))
    how = {
        "do_sample": True,
        "num_beams": 2,
        "num_return_sequences": 2,
        "max_new_tokens": 4,
        "use_cache": cached,
    }
    with sparsify(built, retain=0.4):
        torch.manual_seed(5)
        first = built.generate(**prompt, **how)
        torch.manual_seed(5)
        assert torch.equal(first, built.generate(**prompt, **{**how, "use_cache": True}))
    assert first.shape[0] == 4


@pytest.mark.parametrize(
    "way",
    [{"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5}, {"penalty_alpha": 0.6, "top_k": 4}],
    ids=["group beam", "contrastive"],
)
def test_searches_that_transformers_moved_out(way: dict[str, Any]) -> None:
    """It asks for ``trust_remote_code`` and loads them from the hub; it does so inside the context too."""
    built, prompt = model("llava"), batch("llava", (0,))
    with pytest.raises(ValueError, match="trust_remote_code"):
        built.generate(**prompt, **HOW, **way)
    with sparsify(built, retain=0.4):
        expected = generate(built, prompt)[1]
        with pytest.raises(ValueError, match="trust_remote_code"):
            built.generate(**prompt, **HOW, **way)
        assert torch.equal(generate(built, prompt)[1], expected)
