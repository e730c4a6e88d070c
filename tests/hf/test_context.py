"""Visual tokens given call by call: models that splice pictures into embeddings themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sparsesight import (
    Method,
    Random,
    SparseSightError,
    SparseVLM,
    SparseVLMPlus,
    visual_tokens,
)
from sparsesight import sparsify as install
from tests.hf.spliced_llama import IGNORE_INDEX, SplicedLlama, prompt, spliced_llama
from tests.hf.threads import wrong_in_threads

METHODS = [SparseVLMPlus(0.4), SparseVLM(0.4), SparseVLM(0.4, recycle=0.0), Random(0.4)]


class SaysWhere(SplicedLlama):
    """The same with the three lines of docs/outside-transformers.md in `generate`, and in `forward`."""

    def forward(self, input_ids: Any = None, images: Any = None, **kwargs: Any) -> Any:
        if images is None:
            return super().forward(input_ids=input_ids, **kwargs)
        _, position_ids, attention_mask, _, embeds, labels = self.prepare_inputs_labels_for_multimodal(
            input_ids, None, kwargs.pop("attention_mask", None), None, input_ids, images
        )
        with visual_tokens(self, labels == IGNORE_INDEX):
            return super().forward(
                inputs_embeds=embeds, attention_mask=attention_mask, position_ids=position_ids, **kwargs
            )

    @torch.no_grad()
    def generate(self, inputs: Any, images: Any = None, attention_mask: Any = None, **kwargs: Any) -> Any:
        visual = None
        if images is None:
            embeds = self.get_model().embed_tokens(inputs)
        else:
            _, _, attention_mask, _, embeds, labels = self.prepare_inputs_labels_for_multimodal(
                inputs, None, attention_mask, None, inputs, images
            )
            visual = labels == IGNORE_INDEX
        with visual_tokens(self, visual):
            return super().generate(inputs_embeds=embeds, attention_mask=attention_mask, **kwargs)


def sparsify(model: Any, method: Method | str = "sparsevlm+", **how: Any) -> Any:
    return install(model, method, visual_mask="per call", **how)


def visual(n: int = 30, b: int = 1) -> Tensor:
    mask = torch.zeros(b, n, dtype=torch.bool)
    mask[:, 2:22] = True
    return mask


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=3e-4, rtol=1e-4)


def generate(model: Any, which: tuple[int, ...] = (0, 1, 2), **how: Any) -> tuple[Tensor, Tensor]:
    ids, mask, images = prompt(which)
    how = {"max_new_tokens": 4, "do_sample": False, "output_logits": True, **how}
    out = model.generate(ids, images=images, attention_mask=mask, return_dict_in_generate=True, **how)
    return out.sequences, torch.stack(out.logits, 1)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{m.name}-{m.recycled_fraction}")
def test_generate(attention: str, method: Method) -> None:
    """A left-padded batch with none, one and several pictures gives every sample what it gets alone."""
    model = spliced_llama(SaysWhere, attention)
    with sparsify(model, method) as run:
        tokens, logits = generate(model)
        kept, report = run.kept, run.report
        assert [s.visual_tokens for s in report.samples] == [36, 72, 0]
        assert [[c.frames for c in s.clips] for s in report.samples] == [[(36,)], [(36,), (36,)], []]
        for i in range(3):
            own_tokens, own_logits = generate(model, (i,))
            assert torch.equal(tokens[i], own_tokens[0])
            close(logits[i], own_logits[0])
            for stage, alone in zip(kept, run.kept, strict=True) if i < 2 else ():
                assert torch.equal(stage[i], alone[0]) and 0 < len(alone[0]) < (36, 72)[i]


@pytest.mark.parametrize("sample", [0, 1])
@pytest.mark.parametrize("method", [METHODS[0], METHODS[2], METHODS[3]], ids=lambda m: m.name)
def test_oracle(sample: int, method: Method) -> None:
    """Sparse equals dense with the dropped tokens hidden, in prefill and in decoding."""
    model = spliced_llama(SaysWhere)
    with sparsify(model, method) as run:
        tokens, logits = generate(model, (sample,))
        kept, layers = [stage[0] for stage in run.kept], run.layers
    ids, _, images = prompt((sample,))
    _, _, _, _, embeds, labels = model.prepare_inputs_labels_for_multimodal(
        ids, None, None, None, ids, images
    )
    visual = (labels[0] == IGNORE_INDEX).nonzero()[:, 0]
    embeds = torch.cat((embeds, model.get_model().embed_tokens(tokens)), 1)
    n = embeds.shape[1]
    hooks = []
    for i, layer in enumerate(model.get_decoder().layers):
        allowed = torch.ones(n, n, dtype=torch.bool).tril()
        for p, stay in zip(layers, kept, strict=True):
            if i > p:
                gone = torch.ones(len(visual), dtype=torch.bool)
                gone[stay] = False
                allowed[:, visual[gone]] = False
                allowed[visual[gone], visual[gone]] = True

        def hide(module: Any, args: Any, kwargs: Any, allowed: Tensor = allowed) -> Any:
            return args, {**kwargs, "attention_mask": allowed[None, None]}

        hooks.append(layer.register_forward_pre_hook(hide, with_kwargs=True))
    with torch.no_grad():
        dense = model(inputs_embeds=embeds, attention_mask=torch.ones(1, n, dtype=torch.long)).logits[0]
    for hook in hooks:
        hook.remove()
    close(logits[0], dense[-5:-1])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{m.name}-{m.recycled_fraction}")
def test_plain_forward_on_either_side(side: str, method: Method) -> None:
    model = spliced_llama(SaysWhere, side=side)
    ids, mask, images = prompt(side=side)
    with sparsify(model, method) as run, torch.no_grad():
        logits = model(ids, images=images, attention_mask=mask).logits
        kept = run.kept
        last = []
        for i in range(2):
            own, _, pictures = prompt((i,))
            alone = model(own, images=pictures).logits[0]
            last.append(alone[-1])
            assert all(torch.equal(a[i], b[0]) for a, b in zip(kept, run.kept, strict=True))
    lengths = (len(prompt((0,))[0][0]) + 35, len(prompt((1,))[0][0]) + 70)
    for i in range(2):
        close(logits[i, lengths[i] - 1 if side == "right" else -1], last[i])


def test_keeping_everything_and_leaving() -> None:
    model = spliced_llama(SaysWhere)
    dense = generate(model)[1]
    with sparsify(model, retain=1.0):
        assert torch.equal(generate(model)[1], dense)
    with sparsify(model, retain=0.4):
        assert not torch.equal(generate(model)[1], dense)
    assert torch.equal(generate(model)[1], dense)  # and visual_tokens() does nothing any more


def test_beams_and_returned_sequences_repeat_the_mask() -> None:
    model = spliced_llama(SaysWhere)
    ids, mask, images = prompt((0, 1))
    how: dict[str, Any] = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 4, "do_sample": False}
    with sparsify(model) as run:
        out = model.generate(ids, images=images, attention_mask=mask, **how)
        assert len(run.kept[0]) == 6
        for i in range(2):
            ids, mask, images = prompt((i,))
            assert torch.equal(
                model.generate(ids, images=images, attention_mask=mask, **how), out[2 * i : 2 * i + 2]
            )


def test_a_prompt_without_a_mask_is_refused() -> None:
    """Not run dense in silence; a prompt without pictures says so."""
    model = spliced_llama()
    embeds = torch.randn(1, 30, 32)
    with sparsify(model) as run, torch.no_grad():
        with pytest.raises(
            SparseSightError, match=r"put `with visual_tokens\(model, mask\)` around the call"
        ):
            model(inputs_embeds=embeds)
        with visual_tokens(model, None):
            sparse = model(inputs_embeds=embeds).logits
        assert run.report.samples[0].visual_tokens == 0 and run.kept == []
    assert torch.equal(sparse, model(inputs_embeds=embeds).logits)


def test_the_innermost_counts_and_a_call_ends_it() -> None:
    model = spliced_llama()
    embeds = torch.randn(1, 30, 32)
    other = visual()
    other[:, 10:] = False
    with sparsify(model, "sparsevlm+", retain=0.4) as run, torch.no_grad():
        with visual_tokens(model, visual()):
            with visual_tokens(model, other):
                model(inputs_embeds=embeds)
                assert run.report.samples[0].visual_tokens == 8
            model(inputs_embeds=embeds)
            assert run.report.samples[0].visual_tokens == 20
        with pytest.raises(SparseSightError, match="no mask was given"):
            model(inputs_embeds=embeds)


def test_a_later_turn_over_the_same_cache() -> None:
    """Text follows freely, also of the mask's length; a turn with pictures has a mask of its own."""
    model = spliced_llama()
    first, second = torch.randn(1, 30, 32), torch.randn(1, 30, 32)
    with sparsify(model, "sparsevlm+", retain=0.4) as run, torch.no_grad():
        with visual_tokens(model, visual()):
            cache = model(inputs_embeds=first, use_cache=True).past_key_values
            kept = run.kept
            within = model(inputs_embeds=second, past_key_values=cache).logits
            assert all(torch.equal(a[0], b[0]) for a, b in zip(run.kept, kept, strict=True))
            cache.crop(-30)
        after = model(inputs_embeds=second, past_key_values=cache).logits
        assert torch.equal(within, after)
        cache.crop(-30)
        with visual_tokens(model, visual()):
            model(inputs_embeds=second, past_key_values=cache)
        assert not torch.equal(run.kept[0][0], kept[0][0])
        lengths = [layer.keys.shape[2] for layer in cache.layers]
        assert lengths == list(run.report.kv_lengths) and lengths[-1] < lengths[0] == 60


def test_a_model_of_transformers_that_is_given_embeddings() -> None:
    """Its ids do not pass by, so the caller says where the picture is: the same as with ids."""
    from tests.hf.test_invariants import batch, model

    built, inputs = model("llava"), batch("llava", (0,))
    with install(built, retain=0.4) as run, torch.no_grad():
        expected = built(**inputs).logits[:, -1]
        kept = run.kept
        at = inputs["input_ids"] == built.config.image_token_id
        embeds = built.get_input_embeddings()(inputs["input_ids"])
        features = built.model.get_image_features(inputs["pixel_values"], return_dict=True).pooler_output
        embeds = embeds.masked_scatter(at[..., None], torch.cat(list(features)))
        with visual_tokens(built, at):
            again = built(inputs_embeds=embeds, attention_mask=inputs["attention_mask"]).logits[:, -1]
        close(again, expected)
        assert all(torch.equal(a[0], b[0]) for a, b in zip(run.kept, kept, strict=True))


@pytest.mark.parametrize("shape", ["number", "batch"])
def test_frames_of_the_caller(shape: str) -> None:
    """Five frames of different sizes: the report counts them, and each keeps the same share."""
    sizes = torch.tensor([4, 4, 2, 8, 2])
    number = torch.nn.functional.pad(torch.arange(5).repeat_interleave(sizes), (2, 8), value=9)
    mask = visual()[0]
    model = spliced_llama()
    with sparsify(model, Random((10,), (1,), per_frame=True)) as run, torch.no_grad():
        rows = 1 if shape == "number" else 3
        given = (mask, number) if shape == "number" else (mask.expand(3, -1), number.expand(3, -1))
        with visual_tokens(model, *given):
            model(inputs_embeds=torch.randn(rows, 30, 32))
    for sample in run.report.samples:
        (clip,) = sample.clips
        assert (clip.kind, clip.frames_known, clip.frames) == ("video", True, tuple(sizes.tolist()))
        assert clip.kept == ((2, 2, 1, 4, 1),)


def test_threads_with_different_pictures() -> None:
    """Each has its own mask on the one model, also where they interrupt each other everywhere."""
    model = spliced_llama()
    embeds = [torch.randn(1, 30 + 7 * i, 32) for i in range(3)]
    masks = [visual(30 + 7 * i) for i in range(3)]
    masks[1][:, :12] = False

    def run_one(i: int) -> Tensor:
        with visual_tokens(model, masks[i]), torch.no_grad():
            return model(inputs_embeds=embeds[i]).logits

    with sparsify(model, "sparsevlm+", retain=0.4):
        expected = [run_one(i) for i in range(3)]
        assert not wrong_in_threads(range(3), lambda i: torch.equal(run_one(i), expected[i]), 20, 1e-5)
