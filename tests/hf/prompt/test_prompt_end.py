"""Where the prompt ends: candidates and generated tokens that come with it neither rate nor count as its text."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from sparsesight import SparseVLM, UnsupportedModelError, sparsify
from tests.hf import tiny
from tests.hf.test_invariants import batch, close, generate, model, processor
from tests.in_turn import in_turn

# Its end repeats its beginning, so that looking up the prompt finds candidates in the very first forward.
REPEATING = (
    "what is the red star ? <image> how many small blue ring left of what is the red",
    [tiny.picture(6)],
)
HOW = {"do_sample": False, "max_new_tokens": 12, "return_dict_in_generate": True, "output_logits": True}


def repeating() -> Any:
    return tiny.inputs(processor("llava"), [REPEATING])


def language_model() -> tuple[LlamaForCausalLM, torch.Tensor, torch.Tensor]:
    """A stock decoder, a prompt whose end repeats a part of it, and where its picture is."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4}
    built = LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=50)).eval()
    ids = torch.randint(5, 50, (1, 40))
    ids[:, -3:] = ids[:, 30:33]
    visual = torch.zeros(1, 40, dtype=torch.bool)
    visual[:, 2:28] = True
    return built, ids, visual


def lengths_of_forwards(built: Any, seen: list[tuple[int, bool]]) -> Any:
    """Notes of every forward how many tokens it is given and whether placeholder ids are among them."""

    def note(module: Any, args: Any, kwargs: Any) -> None:
        ids = kwargs["input_ids"]
        seen.append((ids.shape[1], bool((ids == built.config.image_token_id).any())))

    return built.model.register_forward_pre_hook(note, with_kwargs=True)


@pytest.mark.parametrize(
    ("method", "attention"), in_turn(["sparsevlm+", "sparsevlm", "random"], ["eager", "sdpa"])
)
def test_prompt_lookup_decoding_is_greedy_decoding(method: str, attention: str) -> None:
    built, prompt = model("llava", attention), repeating()
    with sparsify(built, method, retain=0.4) as run:
        plain = built.generate(**prompt, **HOW)
        kept, text = run.kept, run.report.samples[0].text_tokens
        seen: list[tuple[int, bool]] = []
        hook = lengths_of_forwards(built, seen)
        looked_up = built.generate(**prompt, **HOW, prompt_lookup_num_tokens=2)
        hook.remove()
        assert seen[0][0] == prompt["input_ids"].shape[1] + 2, "no candidates came with the prompt"
        assert all(torch.equal(a[0], b[0]) for a, b in zip(kept, run.kept, strict=True))
        assert run.report.samples[0].text_tokens >= text
    assert torch.equal(plain.sequences, looked_up.sequences)
    close(torch.stack(plain.logits, 1), torch.stack(looked_up.logits, 1))
    lengths = {layer.get_seq_length() for layer in looked_up.past_key_values.layers}
    assert lengths == {prompt["input_ids"].shape[1] + 11}
    for ours, theirs in zip(looked_up.past_key_values.layers, plain.past_key_values.layers, strict=True):
        close(ours.keys, theirs.keys)  # rejected candidates are gone from pruned layers


def test_candidates_that_look_like_a_picture_are_none() -> None:
    """Looked up after the first step, candidates may hold placeholder ids; nothing is pruned for them."""
    built = tiny.model("llava")
    prompt = tiny.inputs(processor("llava"), [("USER : <image> what is the star ? many", [tiny.picture(1)])])
    built.generation_config.suppress_tokens = None  # lookups leave out what is forbidden
    length = prompt["input_ids"].shape[1]

    def says_colon_second(ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        logits[:, built.config.image_token_id] = -1e4
        if ids.shape[1] == length + 1:
            logits[:, tiny.WORDS.index(":")] = 1e4  # in the prompt, a picture follows it
        return logits

    how = {**HOW, "logits_processor": [says_colon_second]}
    with sparsify(built, retain=0.4) as run:
        plain = built.generate(**prompt, **how)
        kept = run.kept
        seen: list[tuple[int, bool]] = []
        hook = lengths_of_forwards(built, seen)

        looked_up = built.generate(**prompt, **how, prompt_lookup_num_tokens=6, max_matching_ngram_size=1)
        hook.remove()
        assert any(pictured for _, pictured in seen[1:]), "no candidate was a placeholder"
        assert len(run.kept[0]) == 1 and torch.equal(kept[0][0], run.kept[0][0])
    assert torch.equal(plain.sequences, looked_up.sequences)


def small_assistant() -> LlamaForCausalLM:
    torch.manual_seed(5)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    built = LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=40, initializer_range=0.3)).eval()
    built.generation_config = GenerationConfig(pad_token_id=0, num_assistant_tokens=4)
    return built


@pytest.mark.parametrize("method", ["sparsevlm+", "sparsevlm"])
def test_assisted_decoding_is_greedy_decoding(method: str) -> None:
    built, prompt = model("llava"), batch("llava", (0,))
    try:
        built.generate(**prompt, **HOW, assistant_model=small_assistant())
    except ValueError as error:  # older transformers hand the picture to the assistant
        pytest.skip(f"dense, it cannot either: {error}")
    with sparsify(built, method, retain=0.4) as run:
        plain = built.generate(**prompt, **HOW)
        kept = run.kept
        seen: list[tuple[int, bool]] = []
        hook = lengths_of_forwards(built, seen)
        assisted = built.generate(**prompt, **HOW, assistant_model=small_assistant())
        hook.remove()
        assert seen[0][0] > prompt["input_ids"].shape[1]
        assert all(torch.equal(a[0], b[0]) for a, b in zip(kept, run.kept, strict=True))
    assert torch.equal(plain.sequences, assisted.sequences)
    close(torch.stack(plain.logits, 1), torch.stack(assisted.logits, 1))


def test_a_sparse_assistant() -> None:
    """The assistant, of the same weights and sparsified itself, sees the picture too; both know their own prompts."""
    built, helper, prompt = model("llava"), tiny.model("llava"), batch("llava", (0,))
    helper.generation_config.num_assistant_tokens = 3
    with sparsify(built, retain=0.4), sparsify(helper, retain=0.4):
        plain = built.generate(**prompt, **HOW)
        assisted = built.generate(**prompt, **HOW, assistant_model=helper)
    assert torch.equal(plain.sequences, assisted.sequences)


def test_leaving_the_decoder_early_is_refused() -> None:
    """(With LLaVA transformers itself cannot: it looks for the number of layers in the outer config.)"""
    built, ids, visual = language_model()
    how = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    with sparsify(built, visual_mask=visual, retain=0.4, layers=(0, 1)):
        plain = built.generate(ids, **how)
        with pytest.raises(UnsupportedModelError, match="assistant_early_exit=2"):
            built.generate(ids, **how, assistant_early_exit=2)
        assert torch.equal(built.generate(ids, **how), plain)


@pytest.mark.parametrize(
    ("family", "method"),
    in_turn(tiny.FAMILIES, [SparseVLM(0.4), SparseVLM(0.4, positions="compact"), "sparsevlm+"]),
    ids=lambda value: str(value)[:40],
)
def test_without_a_cache_as_with_one(family: str, method: Any) -> None:
    """Every step is a prefill of prompt and answer so far; the answer does not rate."""
    built, prompt = model(family), batch(family)
    settings = {} if not isinstance(method, str) else {"retain": 0.4}
    with sparsify(built, method, **settings) as run:
        tokens, logits, _ = generate(built, prompt)
        kept = run.kept
        again, uncached, _ = generate(built, prompt, use_cache=False)
        for stage, other in zip(kept, run.kept, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(stage, other, strict=True))
    assert torch.equal(tokens, again)
    close(logits, uncached)


def test_beams_without_a_cache() -> None:
    built, prompt = model("llava"), batch("llava", (0, 1))
    how = {"num_beams": 2, "max_new_tokens": 4, "do_sample": False}
    with sparsify(built, retain=0.4):
        assert torch.equal(built.generate(**prompt, **how), built.generate(**prompt, **how, use_cache=False))


@pytest.mark.parametrize("where", ["argument", "config", "model"])
def test_a_prompt_in_chunks_is_refused(where: str) -> None:
    built, prompt = tiny.model("llava"), batch("llava", (0,))
    how: dict[str, Any] = {"max_new_tokens": 2, "do_sample": False}
    with sparsify(built, retain=0.4):
        plain = built.generate(**prompt, **how)
        config = GenerationConfig(prefill_chunk_size=16, pad_token_id=0, **how)
        calls: list[int] = []
        hook = built.get_decoder().register_forward_pre_hook(lambda *a: calls.append(1))
        with pytest.raises(UnsupportedModelError, match="prefill_chunk_size=16"):
            if where == "argument":
                built.generate(**prompt, **how, prefill_chunk_size=16)
            elif where == "config":
                built.generate(**prompt, generation_config=config)
            else:
                built.generation_config.prefill_chunk_size = 16
                built.generate(**prompt, **how)
        hook.remove()
        assert not calls
        built.generation_config.prefill_chunk_size = None
        text = batch("llava", (2,))  # nothing to choose in a prompt without a picture
        assert torch.equal(built.generate(**text, **how, prefill_chunk_size=4), built.generate(**text, **how))
        assert torch.equal(built.generate(**prompt, **how), plain)


def test_visual_mask_of_a_prompt_with_candidates() -> None:
    """The user's mask covers the prompt, not the candidates behind it."""
    built, ids, visual = language_model()
    how = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    with sparsify(built, visual_mask=visual, retain=0.4, layers=(0, 1)) as run:
        plain = built.generate(ids, **how)
        kept = run.kept
        assert kept
        for settings in ({"prompt_lookup_num_tokens": 3}, {"use_cache": False}):
            assert torch.equal(built.generate(ids, **how, **settings), plain)
            assert all(torch.equal(a[0], b[0]) for a, b in zip(kept, run.kept, strict=True))
