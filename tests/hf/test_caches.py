"""Caches of every kind: they work, or are refused before the decoder has run; chats that keep one; prefixes."""

from __future__ import annotations

import copy
from inspect import isabstract
from typing import Any

import pytest
import torch
import transformers
from transformers import DynamicCache, StaticCache, cache_utils

from sparsesight import UnsupportedModelError, sparsify
from sparsesight.hf.cache import CACHE_NAMES, KEYLESS, check_cache
from sparsesight.hf.pruned_layer import PRUNED_KINDS, PrunedLayer
from tests.hf import tiny
from tests.hf.families.base import takes
from tests.hf.oracle import oracle_logits
from tests.hf.test_invariants import NEW, batch, close, generate, model, processor


def fresh(built: Any) -> DynamicCache:
    return DynamicCache(config=built.config.get_text_config())


def layer_kinds() -> list[type]:
    """Every class of cache layers that this version of transformers has."""
    roots = [getattr(cache_utils, n, None) for n in ("CacheLayerMixin", "LinearAttentionCacheLayerMixin")]
    return [
        kind
        for kind in vars(cache_utils).values()
        if isinstance(kind, type) and issubclass(kind, tuple(r for r in roots if r)) and kind not in roots
    ]


@pytest.mark.parametrize("kind", layer_kinds(), ids=lambda k: k.__name__)
def test_every_kind_of_layer_is_known_or_refused(kind: type) -> None:
    cache = cache_utils.Cache(
        layers=[
            object.__new__(
                type(kind.__name__, (kind,), dict.fromkeys(kind.__abstractmethods__))
                if isabstract(kind)
                else kind
            )
        ]
    )
    if kind in PRUNED_KINDS.keys() | KEYLESS:
        check_cache(cache, 0)
    else:
        with pytest.raises(UnsupportedModelError, match=kind.__name__):
            check_cache(cache, 0)


class Halves(cache_utils.QuantizedLayer):
    """A quantised layer without a package of its own: halves of a fp32 model's keys."""

    def _quantize(self, tensor: torch.Tensor, axis: int) -> torch.Tensor:
        return tensor.half()

    def _dequantize(self, q_tensor: torch.Tensor) -> torch.Tensor:
        return q_tensor.float()


@pytest.mark.parametrize("kind", ["static", "static argument", "quantised", "tuple"])
def test_refused_before_the_decoder_runs(kind: str) -> None:
    built, prompt = model("llava"), batch("llava", (0,))
    how: dict[str, Any] = {"max_new_tokens": NEW, "do_sample": False}
    cache: Any = None
    if kind == "static":
        cache = StaticCache(built.config.get_text_config(), max_cache_len=200)
    elif kind == "quantised":
        cache = cache_utils.Cache(layers=[Halves() for _ in range(tiny.LAYERS)])
        built.generate(**prompt, **how, past_key_values=copy.deepcopy(cache))  # dense, it works
    elif kind == "tuple":
        cache = ((torch.zeros(1), torch.zeros(1)),)
    else:
        how["cache_implementation"] = "static"
    calls: list[int] = []
    hook = built.get_decoder().layers[0].register_forward_pre_hook(lambda *a: calls.append(1))
    with sparsify(built, retain=0.4):
        if kind == "tuple":  # generate() itself refuses it
            with pytest.raises(UnsupportedModelError, match="tuple"), torch.no_grad():
                built(**prompt, past_key_values=cache)
        else:
            message = "Halves" if kind == "quantised" else "StaticLayer"
            with pytest.raises(UnsupportedModelError, match=message):
                built.generate(**prompt, **how, **({} if cache is None else {"past_key_values": cache}))
            assert cache is None or cache.get_seq_length() == 0
        assert not calls
        if kind in ("static", "quantised"):  # a prompt without a picture has nothing to prune
            built.generate(**batch("llava", (2,)), **how, past_key_values=cache)
    hook.remove()


@pytest.mark.parametrize("kind", ["static", "quantised"])
def test_keeping_everything_works_with_any_cache(kind: str) -> None:
    """Nothing is pruned, so nothing is refused."""
    built, prompt = model("llava"), batch("llava", (0,))

    def cache() -> Any:
        if kind == "static":
            return StaticCache(built.config.get_text_config(), max_cache_len=200)
        return cache_utils.Cache(layers=[Halves() for _ in range(tiny.LAYERS)])

    dense = generate(built, prompt, past_key_values=cache())[1]
    with sparsify(built, retain=1.0) as run:
        assert torch.equal(generate(built, prompt, past_key_values=cache())[1], dense)
        assert run.kept == []


class Stream:
    """Stands in for a CUDA stream."""

    def wait_stream(self, other: Any) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass


@pytest.mark.parametrize("beams", [1, 3])
def test_offloaded_cache(beams: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The streams are stand-ins here, the order of fetching and giving away is real."""
    monkeypatch.setattr(torch, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "default_stream", lambda device: Stream())
    moved: list[str] = []
    for name in ("offload", "prefetch"):
        real = getattr(cache_utils.DynamicLayer, name)

        def noted(self: Any, real: Any = real, name: str = name) -> None:
            if isinstance(self, PrunedLayer):
                moved.append(name)
            real(self)

        monkeypatch.setattr(cache_utils.DynamicLayer, name, noted, raising=False)
    built, prompt = model("llava"), batch("llava", (0, 1))
    how = {"max_new_tokens": NEW, "do_sample": False, "num_beams": beams}
    with sparsify(built, retain=0.4):
        expected = built.generate(**prompt, **how)
        assert torch.equal(built.generate(**prompt, **how, cache_implementation="offloaded"), expected)
    assert set(moved) == {"offload", "prefetch"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_offloaded_cache_on_a_gpu() -> None:
    built = tiny.model("llava").to("cuda")
    prompt = {k: v.to("cuda") for k, v in batch("llava", (0, 1)).items()}
    how = {"max_new_tokens": NEW, "do_sample": False}
    with sparsify(built, retain=0.4):
        expected = built.generate(**prompt, **how)
        assert torch.equal(built.generate(**prompt, **how, cache_implementation="offloaded"), expected)


def test_a_cache_is_used_again_after_reset() -> None:
    built = model("llava")
    cache = fresh(built)
    generate(built, batch("llava", (0,)), past_key_values=cache)
    cache.reset()
    if cache.get_seq_length():
        pytest.skip("older transformers keep the length, dense too")
    with sparsify(built, retain=0.4):
        cache = fresh(built)
        generate(built, batch("llava", (0, 1)), past_key_values=cache)
        cache.reset()
        _, logits, _ = generate(built, batch("llava", (3,)), past_key_values=cache)
        assert torch.equal(logits, generate(built, batch("llava", (3,)))[1])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_chat_over_a_kept_cache(attention: str) -> None:
    """Three turns through generate: a picture, text only, another picture. Every turn's logits are the oracle's."""
    built, tools = model("llava", attention), processor("llava")
    turns = [
        ("USER : <image> what is the star ? ASSISTANT :", [tiny.picture(1)]),
        ("USER : how many ring ? ASSISTANT :", []),
        ("USER : <image> and what is left of the blue ring ? ASSISTANT :", [tiny.picture(9)]),
    ]
    pictures: list[torch.Tensor] = []
    kept: list[torch.Tensor] | None = None
    with sparsify(built, retain=0.4) as run:
        cache, chat = fresh(built), torch.zeros(1, 0, dtype=torch.long)
        answers = []
        for text, images in turns:
            turn = tiny.inputs(tools, [(text, images)])
            before = int((chat == built.config.image_token_id).sum())
            chat = torch.cat((chat, turn["input_ids"]), 1)
            new = {"pixel_values": turn["pixel_values"]} if images else {}
            out = built.generate(
                input_ids=chat,
                attention_mask=torch.ones_like(chat),
                past_key_values=cache,
                max_new_tokens=NEW,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
                **new,
            )
            chat = out.sequences
            if images:
                stages = [stage[0] + before for stage in run.kept]
                kept = stages if kept is None else [torch.cat(x) for x in zip(kept, stages, strict=True)]
                pictures.append(turn["pixel_values"])
            answers.append((chat, torch.stack(out.logits, 1)[0], kept, torch.cat(pictures)))
        assert {layer.get_seq_length() for layer in cache.layers} == {chat.shape[1] - 1}
        layers = run.layers
    for ids, logits, stages, pixels in answers:
        assert stages is not None
        expected = oracle_logits(model("llava"), ids[0], stages, layers, pixel_values=pixels)
        close(logits, expected[-NEW - 1 : -1])


def test_only_the_new_tokens_of_a_turn() -> None:
    """generate() also takes the new tokens alone, with a mask over the whole chat."""
    built, first = model("llava"), batch("llava", (0,))
    more = tiny.inputs(processor("llava"), [("<image> how many star ?", [tiny.picture(4)])])
    with sparsify(built, retain=0.4) as run:
        cache = fresh(built)
        out = built.generate(**first, past_key_values=cache, max_new_tokens=NEW, do_sample=False)
        copied = copy.deepcopy(cache)
        chat = torch.cat((out, more["input_ids"]), 1)
        how = {"max_new_tokens": NEW, "do_sample": False, "attention_mask": torch.ones_like(chat)}
        how["pixel_values"] = more["pixel_values"]
        whole = built.generate(input_ids=chat, past_key_values=cache, **how)
        kept = run.kept
        tail = chat[:, copied.get_seq_length() :]
        alone = built.generate(input_ids=tail, past_key_values=copied, **how)
        assert torch.equal(whole[:, -NEW:], alone[:, -NEW:])
        assert all(torch.equal(a[0], b[0]) for a, b in zip(kept, run.kept, strict=True))


def test_a_prefix_is_prefilled_once() -> None:
    """Two questions on copies of one cache; neither sees the other, and the prefix stays as it was."""
    built, tools = model("llava"), processor("llava")
    prefix = batch("llava", (0,))
    questions = [
        tiny.inputs(tools, [(t, [])])["input_ids"] for t in ("what is red ?", "how many ring left ?")
    ]
    with sparsify(built, retain=0.4), torch.no_grad():
        cache = fresh(built)
        built(**prefix, past_key_values=cache)
        lengths = [layer.keys.shape[2] for layer in cache.layers]

        def ask(question: torch.Tensor, past: Any) -> torch.Tensor:
            ids = torch.cat((prefix["input_ids"], question), 1)
            return built.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), past_key_values=past, max_new_tokens=NEW,
                do_sample=False,
            )  # fmt: skip

        answers = [ask(q, copy.deepcopy(cache)) for q in (*questions, questions[0])]
        assert torch.equal(answers[0], answers[2])
        assert [layer.keys.shape[2] for layer in cache.layers] == lengths
        again = fresh(built)
        built(**prefix, past_key_values=again)
        assert torch.equal(ask(questions[1], again), answers[1])
        # Back to the prefix by cropping instead of copying.
        again.crop(prefix["input_ids"].shape[1] - again.get_seq_length())
        assert torch.equal(ask(questions[0], again), answers[0])


@pytest.mark.parametrize("name", CACHE_NAMES)
def test_a_cache_is_found_under_either_name(name: str) -> None:
    """The newer one came with transformers 5.24, which takes both."""
    if name == "cache" and not takes("LlavaForConditionalGeneration", name):
        pytest.skip(f"transformers {transformers.__version__} calls no cache so")
    built, prompt = model("llava"), batch("llava", (0,))
    cache, static = fresh(built), StaticCache(built.config.get_text_config(), max_cache_len=200)
    with sparsify(built, retain=0.4) as run, torch.no_grad():
        built(**prompt, **{name: cache})
        assert [layer.keys.shape[2] for layer in cache.layers] == list(run.report.kv_lengths)
        built(input_ids=prompt["input_ids"][:, -1:], **{name: cache})
        assert cache.get_seq_length() == prompt["input_ids"].shape[1] + 1
        with pytest.raises(UnsupportedModelError, match="StaticLayer"):
            built(**prompt, **{name: static})


def test_a_cache_from_before() -> None:
    """Filled by the dense model: its picture stays whole, a new one is pruned."""
    built, first = model("llava"), batch("llava", (0,))
    more = tiny.inputs(processor("llava"), [("<image> how many star ?", [tiny.picture(4)])])
    with torch.no_grad():
        cache = built(**first, past_key_values=fresh(built)).past_key_values
        ids = torch.cat((first["input_ids"], more["input_ids"]), 1)
        with sparsify(built, retain=0.4) as run:
            out = built(**{**more, "attention_mask": torch.ones_like(ids)}, past_key_values=cache)
            kept = [torch.cat((torch.arange(64), stage[0] + 64)) for stage in run.kept]
            layers = run.layers
            assert [layer.keys.shape[2] for layer in cache.layers] == list(run.report.kv_lengths)
    pixels = torch.cat((first["pixel_values"], more["pixel_values"]))
    expected = oracle_logits(model("llava"), ids[0], kept, layers, pixel_values=pixels)
    close(out.logits[0, -1], expected[-1])
