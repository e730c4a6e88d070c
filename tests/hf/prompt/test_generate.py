"""Every way people drive a model: searches, streaming, several turns, plain forwards with labels."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import DynamicCache, GenerationMixin, TextIteratorStreamer

from sparsesight import SparseVLM, sparsify
from tests.hf import tiny
from tests.hf.oracle import oracle_logits
from tests.hf.test_invariants import batch, close, generate, model, processor
from tests.in_turn import in_turn


@pytest.mark.parametrize(("family", "attention"), in_turn(tiny.FAMILIES, ["eager", "sdpa"]))
def test_beam_search(family: str, attention: str) -> None:
    """Beams of a batch equal beams alone, and their scores equal the oracle's: the cache was reordered rightly."""
    built, how = model(family, attention), {"num_beams": 3, "max_new_tokens": 5, "num_return_sequences": 2}
    how |= {"do_sample": False, "output_scores": True, "return_dict_in_generate": True, "length_penalty": 0.0}
    with sparsify(built, retain=0.4) as run:
        prompt = batch(family, (0, 1, 3))
        out = built.generate(**prompt, **how)
        for i in range(3):
            single = batch(family, ((0, 1, 3)[i],))
            alone = built.generate(**single, **how)
            assert torch.equal(out.sequences[2 * i : 2 * i + 2, -5:], alone.sequences[:, -5:])
            close(out.sequences_scores[2 * i : 2 * i + 2], alone.sequences_scores)
            pictures = {k: v for k, v in single.items() if k not in ("input_ids", "attention_mask")}
            if i == 1 and not hasattr(GenerationMixin, "_expand_multimodal_outputs"):
                continue  # older transformers mix up the pictures of one prompt when they repeat it, dense or sparse
            kept, layers = [stage[0] for stage in run.kept], run.layers
            with sparsify_off(run):
                for sequence, score in zip(alone.sequences, alone.sequences_scores, strict=True):
                    logits = oracle_logits(model(family), sequence, kept, layers, **pictures)
                    logp = logits[-6:-1].log_softmax(-1).gather(1, sequence[-5:, None]).sum()
                    close(logp, score)


class sparsify_off:
    """The oracle shares weights with the sdpa model, so the handle steps aside for it."""

    def __init__(self, run: Any) -> None:
        self.run = run

    def __enter__(self) -> None:
        self.run.restore()

    def __exit__(self, *error: object) -> None:
        self.run._hooks.install()


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_sampling_and_returned_sequences(family: str) -> None:
    built, prompt = model(family), batch(family, (0, 1))
    how = {"do_sample": True, "num_return_sequences": 3, "max_new_tokens": 4}
    with sparsify(built, retain=0.4) as run:
        torch.manual_seed(3)
        first = built.generate(**prompt, **how)
        assert len(run.kept[0]) == 6  # the prompt is expanded before the prefill
        assert torch.equal(run.kept[0][0], run.kept[0][2])
        torch.manual_seed(3)
        assert torch.equal(first, built.generate(**prompt, **how))
    assert first.shape[0] == 6


def test_streaming() -> None:
    built, prompt = model("llava"), batch("llava", (0,))
    streamer = TextIteratorStreamer(processor("llava").tokenizer, skip_prompt=True)
    with sparsify(built, retain=0.4):
        tokens, _, _ = generate(built, prompt, streamer=streamer)
        whole = processor("llava").tokenizer.decode(tokens[0])
    assert "".join(streamer).split() == whole.split()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("second", ["text", "picture"])
def test_second_turn_with_a_kept_cache(attention: str, second: str) -> None:
    """A later turn over a pruned cache, with text only or another picture, equals the oracle over the whole chat."""
    built, family = model("llava", attention), "llava"
    first = batch(family, (0,))
    turn = (
        ("how many ring ?", [])
        if second == "text"
        else ("<image> what is left of the star ?", [tiny.picture(9)])
    )
    more = tiny.inputs(processor(family), [turn])
    with sparsify(built, retain=0.4) as run, torch.no_grad():
        cache = DynamicCache(config=built.config.get_text_config())
        start = built(**first, past_key_values=cache, use_cache=True)
        kept_first = [stage[0] for stage in run.kept]
        snapshot = copy.deepcopy(cache)
        ids = torch.cat((first["input_ids"], more["input_ids"]), 1)
        later = {"attention_mask": torch.ones_like(ids), "past_key_values": cache}
        out = built(input_ids=more["input_ids"], pixel_values=more.get("pixel_values"), **later)
        kept_second = [stage[0] for stage in run.kept] if second == "picture" else None
        # A deep copy of the prefix gives the same again: state lives with the cache.
        copied = built(
            input_ids=more["input_ids"],
            pixel_values=more.get("pixel_values"),
            **{**later, "past_key_values": snapshot},
        )
        assert torch.equal(copied.logits, out.logits)
        stored = [layer.keys.shape[2] for layer in cache.layers]
        layers = run.layers
    assert {layer.get_seq_length() for layer in cache.layers} == {ids.shape[1]}
    pictures = first["pixel_values"]
    kept = kept_first
    if kept_second is not None:
        visual = int((first["input_ids"] == built.config.image_token_id).sum())
        kept = [torch.cat((a, b + visual)) for a, b in zip(kept_first, kept_second, strict=True)]
        pictures = torch.cat((pictures, more["pixel_values"]))
        assert stored == list(run.report.kv_lengths)
    expected = oracle_logits(model(family), ids[0], kept, layers, pixel_values=pictures)
    close(start.logits[0, -1], expected[first["input_ids"].shape[1] - 1])
    close(out.logits[0, -1], expected[-1])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_second_turn_of_a_ragged_batch(attention: str) -> None:
    """Text-only second turn over a cache whose samples were pruned to different lengths."""
    built = model("llava", attention)
    more = torch.tensor([[14, 9, 20, 8]]).expand(4, -1)
    prompt = batch("llava")
    with sparsify(built, retain=0.4), torch.no_grad():

        def two_turns(first: Any, rows: int) -> torch.Tensor:
            start = (first["attention_mask"].cumsum(1) - 1).clamp(min=0)
            out = built(**first, position_ids=start)
            mask = torch.cat((first["attention_mask"], torch.ones(rows, 4, dtype=torch.long)), 1)
            position = mask.cumsum(1)[:, -4:] - 1
            return built(
                input_ids=more[:rows],
                attention_mask=mask,
                position_ids=position,
                past_key_values=out.past_key_values,
            ).logits

        together = two_turns(prompt, 4)
        for i in range(4):
            close(together[i], two_turns(batch("llava", (i,)), 1)[0])


def test_without_cache_equals_with_cache_in_prefill() -> None:
    built, prompt = model("llava"), batch("llava")
    for method in (SparseVLM(0.4), SparseVLM(0.4, positions="compact")):
        with sparsify(built, method), torch.no_grad():
            with_cache = built(**prompt, use_cache=True).logits
            without = built(**prompt, use_cache=False).logits
        close(with_cache[:, -1], without[:, -1])


def test_equal_lengths_with_different_pictures_become_ragged() -> None:
    """No padding at first, so no mask at all: pruning makes the rows ragged and a mask must appear."""
    built = model("llava")
    tools = processor("llava")
    filler = " star" * 64
    samples = [
        ("<image> what is the red star ?" + filler, [tiny.picture(1)]),
        ("<image> <image> what is the red star ?", [tiny.picture(2), tiny.picture(3)]),
    ]
    prompt = tiny.inputs(tools, samples)
    assert bool(prompt["attention_mask"].all())
    with sparsify(built, retain=0.4):
        _, logits, cache = generate(built, prompt)
        assert cache.layers[-1].ragged
        for i in range(2):
            close(logits[i], generate(built, tiny.inputs(tools, samples[i : i + 1]))[1][0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    """Half-precision models run, and their first stage keeps nearly the same tokens as in fp32 (later ones drift)."""
    prompt = batch("llava", (0,))
    with sparsify(model("llava"), retain=0.4) as exact, torch.no_grad():
        model("llava")(**prompt)
    built = tiny.model("llava", dtype=dtype)
    with sparsify(built, retain=0.4) as run, torch.no_grad():
        prompt["pixel_values"] = prompt["pixel_values"].to(dtype)
        assert bool(built(**prompt).logits.isfinite().all())
    assert [len(stage[0]) for stage in run.kept] == [len(stage[0]) for stage in exact.kept]
    first, reference = set(run.kept[0][0].tolist()), set(exact.kept[0][0].tolist())
    assert len(first & reference) >= 0.9 * len(reference)
    bits = 2 * torch.finfo(dtype).bits // 8
    assert run.report.kv_bytes_sparse == sum(run.report.kv_lengths) * bits * 2 * 16
