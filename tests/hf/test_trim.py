"""trim_early_layers: after the prefill, the layers up to the first stage cache no more than leaves it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, StaticCache

from sparsesight import Method, Random, SparseVLM, SparseVLMPlus, UnsupportedModelError, sparsify
from tests.hf import tiny
from tests.hf.families import llava_like
from tests.hf.families.base import SAMPLES
from tests.hf.masked_keys import hidden
from tests.hf.test_invariants import BACKENDS, NEW, batch, close, generate, model, processor
from tests.in_turn import in_turn

METHODS: list[Method] = [
    SparseVLMPlus(0.4),
    SparseVLM(0.4, recycle=0.0),
    SparseVLM(0.4),
    Random(0.4),
    SparseVLMPlus((30, 12), (1, 4)),
    SparseVLM(0.4, positions="compact"),
    SparseVLM(1.0, (1, 3), "compact", adaptive=True, scale=3.0),
    SparseVLM(0.4, proportional=True),
]
WITHOUT_MERGING = [m for m in METHODS if m.positions == "original" and m != METHODS[2] and not m.weights_keys]


def label(value: Any) -> str:
    if not isinstance(value, Method):
        return str(value)
    proportional = "proportional" * value.weights_keys
    parts = (
        value.name,
        value.positions,
        value.recycled_fraction,
        value.data_dependent,
        value.layers,
        proportional,
    )
    return "-".join(map(str, parts))


def without(ids: Tensor, stay: Tensor) -> Tensor:
    """Places of the visual tokens among ``ids`` that do not stay."""
    visual = (ids == model("llava").config.image_token_id).nonzero()[:, 0]
    gone = torch.ones(len(visual), dtype=torch.bool)
    gone[stay] = False
    return visual[gone]


def dense_logits(
    ids: Tensor, early: tuple[int, Tensor], kept: list[Tensor], layers: tuple[int, ...], **pictures: Any
) -> Tensor:
    """Logits [n, vocab] of a dense run with hidden keys.

    Layers after a stage never see what it dropped. Layers up to the first one see it until the row ``early[0]``, and
    from there on only the visual tokens ``early[1]``.
    """
    built, n, hooks = model("llava"), len(ids), []
    for i, layer in enumerate(built.get_decoder().layers):
        allowed = torch.ones(n, n, dtype=torch.bool).tril()
        if i <= layers[0]:
            allowed[early[0] :, without(ids, early[1])] = False
        for p, stay in zip(layers, kept, strict=True):
            if i > p:
                gone = without(ids, stay)
                allowed[:, gone] = False
                allowed[gone, gone] = True  # their own rows: nobody looks at them

        def hide(module: Any, args: Any, kwargs: Any, allowed: Tensor = allowed) -> Any:
            return args, {**kwargs, "attention_mask": allowed[None, None]}

        hooks.append(layer.register_forward_pre_hook(hide, with_kwargs=True))
    try:
        with torch.no_grad():
            every = torch.ones(1, n, dtype=torch.long)
            return built(input_ids=ids[None], attention_mask=every, **pictures).logits[0]
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize(
    ("attention", "method", "sample"), in_turn(BACKENDS, WITHOUT_MERGING, [0, 1]), ids=label
)
def test_oracle(attention: str, method: Method, sample: int) -> None:
    """Decoding equals dense decoding in which those layers' keys of dropped tokens are hidden after the prefill."""
    built, prompt = model("llava", attention), batch("llava", (sample,))
    with sparsify(built, method) as run:
        _, untrimmed, _ = generate(built, prompt)
    with sparsify(built, method, trim_early_layers=True) as run:
        tokens, logits, _ = generate(built, prompt)
        kept = [stage[0] for stage in run.kept]
    assert torch.equal(logits[:, 0], untrimmed[:, 0]), "the prefill must not feel it"
    assert not torch.allclose(logits[:, 1:], untrimmed[:, 1:], atol=1e-3), "nothing was trimmed"
    ids = torch.cat((prompt["input_ids"][0], tokens[0]))
    length = prompt["input_ids"].shape[1]
    expected = dense_logits(ids, (length, kept[0]), kept, run.layers, pixel_values=prompt["pixel_values"])
    close(logits[0], expected[-NEW - 1 : -1])


@pytest.mark.parametrize(("attention", "method"), in_turn(BACKENDS, METHODS), ids=label)
def test_batch_equals_alone(attention: str, method: Method) -> None:
    built = model("llava", attention)
    with sparsify(built, method, trim_early_layers=True):
        tokens, logits, _ = generate(built, batch("llava"))
        for i in range(len(tiny.SAMPLES)):
            own_tokens, own_logits, _ = generate(built, batch("llava", (i,)))
            close(logits[i], own_logits[0])
            assert torch.equal(tokens[i], own_tokens[0])


@pytest.mark.parametrize(("method", "which"), in_turn(METHODS, [(0,), (0, 1, 2, 3)]), ids=label)
def test_lengths_and_bytes_are_those_of_the_report(method: Method, which: tuple[int, ...]) -> None:
    built, prompt = model("llava"), batch("llava", which)
    positions: list[list[int]] = []

    def note(module: Any, args: Any, kwargs: Any) -> None:
        if args[0].shape[1] == 1:
            positions.append(kwargs["position_ids"][:, 0].tolist())

    with sparsify(built, method, trim_early_layers=True) as run:
        hook = built.get_decoder().layers[0].register_forward_pre_hook(note, with_kwargs=True)
        _, _, cache = generate(built, prompt)
        hook.remove()
        report = run.report
    stored = [layer.keys.shape[2] for layer in cache.layers]
    assert stored == [n + NEW - 1 for n in report.kv_lengths]
    early = run.layers[0] + 1
    assert set(stored[: early + 1]) == {stored[early]} and stored[0] < prompt["input_ids"].shape[1]
    measured = sum(x.numel() * x.element_size() for layer in cache.layers for x in (layer.keys, layer.values))
    assert measured * sum(report.kv_lengths) == report.kv_bytes_sparse * sum(stored)
    length = prompt["input_ids"].shape[1]
    assert {layer.get_seq_length() for layer in cache.layers} == {length + NEW - 1}
    real = prompt["attention_mask"].sum(1)
    assert positions == [(real + t).tolist() for t in range(NEW - 1)]


def test_text_is_untouched() -> None:
    """The early layers' keys that are left are the very ones of the text and of the kept tokens."""
    built, prompt = model("llava"), batch("llava", (1,))
    caches = []
    for trim in (False, True):
        with sparsify(built, retain=0.4, trim_early_layers=trim) as run, torch.no_grad():
            caches.append(built(**prompt, use_cache=True).past_key_values)
            first = run.kept[0][0]
    visual = (prompt["input_ids"][0] == built.config.image_token_id).nonzero()[:, 0]
    stay = torch.ones(prompt["input_ids"].shape[1], dtype=torch.bool)
    stay[visual] = False
    stay[visual[first]] = True
    for i in range(run.layers[0] + 1):
        for x, whole in ((caches[1].layers[i].keys, caches[0].layers[i].keys),
                         (caches[1].layers[i].values, caches[0].layers[i].values)):  # fmt: skip
            assert torch.equal(x, whole[:, :, stay])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_beams_are_reordered_rightly(attention: str) -> None:
    """Scores of beams equal the oracle's: the trimmed layers follow the reordering."""
    built, prompt = model("llava", attention), batch("llava", (0,))
    how: dict[str, Any] = {"num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 5, "do_sample": False}
    how |= {"output_scores": True, "return_dict_in_generate": True, "length_penalty": 0.0}
    with sparsify(built, retain=0.4, trim_early_layers=True) as run:
        out = built.generate(**prompt, **how)
        kept, layers = [stage[0] for stage in run.kept], run.layers
    length = prompt["input_ids"].shape[1]
    for sequence, score in zip(out.sequences, out.sequences_scores, strict=True):
        logits = dense_logits(sequence, (length, kept[0]), kept, layers, pixel_values=prompt["pixel_values"])
        close(logits[-6:-1].log_softmax(-1).gather(1, sequence[-5:, None]).sum(), score)


@pytest.mark.parametrize("attention", ["eager", "sdpa", "flex_attention"])
@pytest.mark.parametrize("second", ["text", "picture"])
def test_crop_and_a_second_turn(attention: str, second: str) -> None:
    """What follows over the trimmed cache equals a dense run; cropping it away and going on gives the same again."""
    built = model("llava", attention)
    first = batch("llava", (0,))
    turn: Any = ("how many ring ?", [])
    if second == "picture":
        turn = ("<image> what is left of the star ?", [tiny.picture(9)])
    more = tiny.inputs(processor("llava"), [turn])
    n = first["input_ids"].shape[1]
    ids = torch.cat((first["input_ids"], more["input_ids"]), 1)
    with sparsify(built, retain=0.4, trim_early_layers=True) as run, torch.no_grad():
        cache = DynamicCache(config=built.config.get_text_config())
        built(**first, past_key_values=cache, use_cache=True)
        kept = [stage[0] for stage in run.kept]
        copied = copy.deepcopy(cache)
        how = {"pixel_values": more.get("pixel_values"), "attention_mask": torch.ones_like(ids)}
        out = built(input_ids=more["input_ids"], past_key_values=cache, **how).logits
        second_kept = [stage[0] for stage in run.kept] if second == "picture" else None
        assert torch.equal(built(input_ids=more["input_ids"], past_key_values=copied, **how).logits, out)
        if second == "text":
            cache.crop(-more["input_ids"].shape[1])
            assert {layer.get_seq_length() for layer in cache.layers} == {n}
            assert torch.equal(built(input_ids=more["input_ids"], past_key_values=cache, **how).logits, out)
        else:
            stored = [layer.keys.shape[2] for layer in cache.layers]
            assert stored == list(run.report.kv_lengths) and len(set(stored[: run.layers[0] + 2])) == 1
        layers = run.layers
    pictures, early = first["pixel_values"], kept[0]
    if second_kept is not None:
        # In its own prefill the second picture is whole in the early layers, the first one is not any more.
        visual, total = ((x == built.config.image_token_id).sum() for x in (first["input_ids"], ids))
        early = torch.cat((early, torch.arange(int(visual), int(total))))
        kept = [torch.cat((a, b + visual)) for a, b in zip(kept, second_kept, strict=True)]
        pictures = torch.cat((pictures, more["pixel_values"]))
    close(out[0, -1], dense_logits(ids[0], (n, early), kept, layers, pixel_values=pictures)[-1])


@pytest.mark.parametrize("window", [8, 20, 200])
def test_sliding_windows(window: int) -> None:
    """Early layers with a window, passed or not: the oracle, and a batch equals alone."""
    made = next(f for f in llava_like.FAMILIES if f.name == "llava-pixtral")
    built = made.build("eager")
    built.config.get_text_config().sliding_window = window
    for layer in built.get_decoder().layers:
        layer.self_attn.sliding_window = window
    with sparsify(built, Random((20, 10), (2, 4)), trim_early_layers=True) as run:
        together = generate(built, made.prompts(SAMPLES))[1]
        for i, sample in enumerate(SAMPLES):
            _, own, cache = generate(built, made.prompts([sample]))
            torch.testing.assert_close(together[i], own[0], atol=1e-3, rtol=1e-3)
            assert {layer.get_seq_length() for layer in cache.layers} == {
                made.prompts([sample])["input_ids"].shape[1] + NEW - 1
            }
        prompt = made.prompts([SAMPLES[1]])
        with torch.no_grad():
            cache = built(**prompt, use_cache=True).past_key_values
        assert [layer.keys.shape[2] for layer in cache.layers] == list(run.report.kv_lengths)
        logits, layers = generate(built, prompt)[1], run.layers
        kept = [stage[0] for stage in run.kept]
    ids = prompt["input_ids"][0]
    visual = (ids == built.config.image_token_id).nonzero()[:, 0]
    gone = []
    for stay in kept:
        missing = torch.ones(len(visual), dtype=torch.bool)
        missing[stay] = False
        gone.append(visual[missing])
    late = {i: gone[i > layers[1]] for i in range(layers[0] + 1, len(built.get_decoder().layers))}
    with hidden(built, late, decoding=dict.fromkeys(range(layers[0] + 1), gone[0])):
        torch.testing.assert_close(generate(built, prompt)[1], logits, atol=1e-3, rtol=1e-3)


def test_keeping_everything_trims_nothing() -> None:
    built, prompt = model("llava"), batch("llava")
    dense = generate(built, prompt)[1]
    with sparsify(built, retain=1.0, trim_early_layers=True):
        assert torch.equal(generate(built, prompt)[1], dense)
    # A sample that keeps all its tokens is as wide as the prompt: then there is nothing to save.
    end = ("what is the star ? <image>", [tiny.picture(5)])
    with sparsify(built, retain=0.4, trim_early_layers=True) as run:
        _, _, cache = generate(built, tiny.inputs(processor("llava"), [end, tiny.SAMPLES[0]]))
        assert [layer.keys.shape[2] - NEW + 1 for layer in cache.layers] == list(run.report.kv_lengths)


def test_caches_that_cannot_be_trimmed_are_refused() -> None:
    built, prompt = model("llava"), batch("llava", (0,))
    cache = StaticCache(built.config.get_text_config(), max_cache_len=200)
    with (
        sparsify(built, retain=0.4, trim_early_layers=True),
        torch.no_grad(),
        pytest.raises(UnsupportedModelError, match="StaticLayer"),
    ):
        built(**prompt, past_key_values=cache)
