"""What a vision tower attends to, as visual tokens get it, against whole attention matrices laid out by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsesight.core.stage import Vision
from sparsesight.errors import SparseSightError, UnsupportedModelError
from sparsesight.hf.install import Installation
from sparsesight.hf.model_parts import inspect_model
from sparsesight.hf.vision.reader import VisionReader

from .. import tower_attention
from ..families import ALL
from ..families.base import CLIPS, SAMPLES
from ..threads import wrong_in_threads

FAMILIES = {family.name: family for family in ALL}
PICTURES = (SAMPLES[0], SAMPLES[1], SAMPLES[3])  # one, two of other sizes, one
# family: where its tower is, what is the attention of the layer that is used, class token?, layout
CASES: dict[str, tuple[str, bool, tower_attention.Layout]] = {
    "llava": ("model.vision_tower.encoder.layers.1.self_attn", True, tower_attention.in_order),
    "llava-siglip": ("model.vision_tower.encoder.layers.1.self_attn", False, tower_attention.in_order),
    "llava-pixtral": ("model.vision_tower.transformer.layers.1.attention", False, tower_attention.in_order),
    "vipllava": ("model.vision_tower.encoder.layers.1.self_attn", True, tower_attention.in_order),
    "llava_next": ("model.vision_tower.encoder.layers.1.self_attn", True, tower_attention.packed),
    "llava_onevision": ("model.vision_tower.encoder.layers.1.self_attn", False, tower_attention.packed),
    "paligemma": ("model.vision_tower.encoder.layers.1.self_attn", False, tower_attention.in_order),
    "gemma3": ("model.vision_tower.encoder.layers.1.self_attn", False, tower_attention.blocks(2)),
    "aya_vision": ("model.vision_tower.encoder.layers.1.self_attn", False, tower_attention.blocks(2)),
    "internvl": ("model.vision_tower.encoder.layer.1.attention", True, tower_attention.blocks(2)),
    "idefics3": ("model.vision_model.encoder.layers.1.self_attn", False, tower_attention.blocks(2)),
    "mistral3": ("model.vision_tower.transformer.layers.1.attention", False, tower_attention.sheets),
    "qwen2_vl": ("model.visual.blocks.2.attn", False, tower_attention.neighbours),
    "qwen2_5_vl": ("model.visual.blocks.2.attn", False, tower_attention.windows),
    "qwen3_vl": ("model.visual.blocks.2.attn", False, tower_attention.neighbours),
    "glm4v": ("model.visual.blocks.1.attn", False, tower_attention.neighbours),
    "ernie4_5_vl_moe": ("model.vision_tower.blocks.1.attn", False, tower_attention.neighbours),
    "granite_docling": ("model.vision_model.encoder.layers.1.self_attn", False, tower_attention.blocks(2)),
    "perception_lm": ("model.vision_tower.encoder.layers.1.self_attn", True, tower_attention.blocks(2)),
    "deepseek_vl": ("model.vision_model.encoder.layers.1.self_attn", False, tower_attention.in_order),
}


def built(name: str, attention: str = "eager") -> Any:
    family = FAMILIES[name]
    if family.missing:
        pytest.skip(family.missing)
    return family.build(attention)


def visual_of(model: Any, prompt: dict[str, Any]) -> Tensor:
    return torch.isin(prompt["input_ids"], torch.tensor(inspect_model(model).visual_ids))


@contextmanager
def reading(model: Any) -> Iterator[tuple[VisionReader, list[Vision]]]:
    """A reader on a model, and what it gives whenever the decoder begins."""
    parts, added = inspect_model(model), Installation()
    reader = VisionReader(parts, "visionzip")
    reader.install(added)
    taken: list[Vision] = []
    ids: list[Tensor] = []

    def enter_model(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        ids.append(args[0] if args else kwargs["input_ids"])

    def enter_decoder(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        visual = visual_of(model, {"input_ids": ids.pop()})
        if visual.any():
            taken.append(reader.take(kwargs["inputs_embeds"], visual))
        reader.forget()

    added.hook(parts.base, "forward_pre", enter_model, with_kwargs=True)
    added.hook(parts.decoder, "forward_pre", enter_decoder, with_kwargs=True)
    try:
        yield reader, taken
    finally:
        added.remove()


def seen_by(model: Any, prompt: dict[str, Any]) -> Vision:
    with reading(model) as (_, taken), torch.no_grad():
        model(**prompt)
    return taken[0]


def flat(vision: Vision, visual: Tensor) -> tuple[Tensor, Tensor]:
    """Of all visual tokens of a batch in their order; other rows are zero."""
    assert not vision.attention[~visual].any() and not vision.key[~visual].any()
    return vision.attention[visual], vision.key[visual]


@pytest.mark.parametrize("name", CASES)
def test_tokens_get_what_their_patches_received(name: str) -> None:
    path, class_token, layout = CASES[name]
    model, prompt = built(name), FAMILIES[name].prompts(PICTURES)
    with tower_attention.recorded(model.get_submodule(path)) as seen, torch.no_grad():
        model(**prompt)
    attention, keys = tower_attention.received(seen, class_token)
    wanted = layout(model, prompt, attention, float("-inf"))[:, 0]
    wanted_key = layout(model, prompt, keys, 0.0)
    for implementation in ("eager", "sdpa"):
        model = built(name, implementation)
        vision = seen_by(model, prompt)
        got, key = flat(vision, visual_of(model, prompt))
        assert vision.attention.dtype == torch.float32
        assert (wanted.isinf() == got.isinf()).all() and wanted.unique().numel() > 20
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(key, wanted_key, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "path", "class_token", "layout"),
    [
        (
            "llava_next_video",
            "model.vision_tower.encoder.layers.1.self_attn",
            True,
            tower_attention.blocks(2),
        ),
        ("internvl", "model.vision_tower.encoder.layer.1.attention", True, tower_attention.blocks(2)),
        ("qwen2_vl", "model.visual.blocks.2.attn", False, tower_attention.neighbours),
    ],
)
def test_frames_of_a_clip(name: str, path: str, class_token: bool, layout: tower_attention.Layout) -> None:
    model, prompt = built(name), FAMILIES[name].prompts(CLIPS[:1])
    with tower_attention.recorded(model.get_submodule(path)) as seen, torch.no_grad():
        model(**prompt)
    attention, keys = tower_attention.received(seen, class_token)
    got, key = flat(seen_by(model, prompt), visual_of(model, prompt))
    torch.testing.assert_close(got, layout(model, prompt, attention, 0.0)[:, 0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(key, layout(model, prompt, keys, 0.0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["llava_next", "llava-siglip", "internvl", "qwen2_5_vl"])
def test_a_batch_is_each_sample_alone(name: str) -> None:
    model, family = built(name, "sdpa"), FAMILIES[name]
    together = seen_by(model, family.prompts(PICTURES))
    for i, sample in enumerate(PICTURES):
        alone = seen_by(model, family.prompts([sample]))
        count = alone.attention.shape[1]
        torch.testing.assert_close(together.attention[i, -count:], alone.attention[0], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(together.key[i, -count:], alone.key[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("layer", "used"), [(-2, 1), (-3, 0), (1, 0), ([-1, 1], 2), ([-2, 1], 1)])
def test_read_is_the_layer_whose_output_is_used_the_deepest_of_several(layer: Any, used: int) -> None:
    from ..families import llava_like as like

    tower = {**like.CLIP, "num_hidden_layers": 3}
    model = like._llava(lambda: like.CLIPVisionConfig(**tower), like._LLAMA, vision_feature_layer=layer)(
        "eager"
    )
    prompt = FAMILIES["llava"].prompts(PICTURES)
    with (
        tower_attention.recorded(model.model.vision_tower.encoder.layers[used].self_attn) as seen,
        torch.no_grad(),
    ):
        model(**prompt)
    attention, keys = tower_attention.received(seen, class_token=True)
    got, key = flat(seen_by(model, prompt), visual_of(model, prompt))
    torch.testing.assert_close(got, torch.cat(attention)[:, 0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(key, torch.cat(keys), rtol=1e-4, atol=1e-5)


def test_features_before_any_attention_are_refused() -> None:
    from ..families import llava_like as like

    model = like._llava(like._CLIP, like._LLAMA, vision_feature_layer=0)("eager")
    with pytest.raises(UnsupportedModelError, match=r"vision_feature_layer=0 of 2 layers"):
        VisionReader(inspect_model(model), "visionzip")


def test_a_class_token_that_is_handed_on_stands_for_no_patch() -> None:
    model, family = built("video_llava", "sdpa"), FAMILIES["video_llava"]
    vision = seen_by(model, family.prompts(CLIPS[:1]))  # 2 frames of 16 patches
    first = vision.attention.isinf().nonzero()[:, 1]
    assert len(first) == 2 and first[1] - first[0] == 17
    assert not vision.key[0, first].any() and vision.key[0, first + 1].all()


@pytest.mark.parametrize("name", ["llava", "llava_next", "gemma3", "qwen2_vl"])
def test_half_precision_is_followed(name: str) -> None:
    model, prompt = built(name, "sdpa"), FAMILIES[name].prompts(PICTURES)
    wanted = seen_by(model, prompt)
    got = seen_by(model.to(torch.bfloat16), {k: bf16(v) for k, v in prompt.items()})
    assert got.attention.dtype == got.key.dtype == torch.float32
    assert torch.equal(got.attention.isinf(), wanted.attention.isinf())
    torch.testing.assert_close(got.attention, wanted.attention, rtol=0.3, atol=0.01)


def bf16(x: Any) -> Any:
    return x.to(torch.bfloat16) if isinstance(x, Tensor) and x.is_floating_point() else x


@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_under_autocast_and_in_inference_mode(name: str) -> None:
    model, prompt = built(name, "sdpa"), FAMILIES[name].prompts(PICTURES)
    wanted = seen_by(model, prompt)
    with reading(model) as (_, taken), torch.inference_mode():
        model(**prompt)
    assert torch.equal(taken[0].attention, wanted.attention)
    with torch.autocast("cpu", torch.bfloat16):
        got = seen_by(model, prompt)
    torch.testing.assert_close(got.attention, wanted.attention, rtol=0.3, atol=0.01)


def test_the_same_picture_twice_and_no_picture_beside_it() -> None:
    model, family = built("llava", "sdpa"), FAMILIES["llava"]
    alone = seen_by(model, family.prompts([SAMPLES[0]]))
    both = seen_by(model, family.prompts([SAMPLES[0], SAMPLES[2], SAMPLES[0]]))
    torch.testing.assert_close(both.attention, alone.attention.expand(3, -1) * torch.tensor([[1], [0], [1]]))


def test_threads_do_not_meet() -> None:
    model, family = built("llava_next", "sdpa"), FAMILIES["llava_next"]
    prompts = [family.prompts([sample]) for sample in PICTURES]
    wanted = [seen_by(model, prompt) for prompt in prompts]
    parts, added = inspect_model(model), Installation()
    reader = VisionReader(parts, "visionzip")
    reader.install(added)

    def works(job: int) -> bool:
        visual = visual_of(model, prompts[job])
        with torch.no_grad():
            made = model.model.get_image_features(prompts[job]["pixel_values"], prompts[job]["image_sizes"])
        rows = torch.zeros(*visual.shape, 32)
        rows[visual] = torch.cat(list(made.pooler_output))
        got = reader.take(rows, visual)
        reader.forget()
        return torch.equal(got.attention, wanted[job].attention)

    assert not wrong_in_threads(range(3), works, 20, 1e-5)
    added.remove()


REFUSED = {
    "got_ocr2": "has none with attention that can be read",
    "fuyu": "has none with attention that can be read",
    "gemma3n": "has none with attention that can be read",
    "nemotron_h_omni": "has a tower with several class tokens",
    "granite4_vision": "has no module that makes its tokens of patches",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_at_once(name: str) -> None:
    model = built(name, "sdpa")
    with pytest.raises(UnsupportedModelError, match=REFUSED[name]) as error:
        VisionReader(inspect_model(model), "visionzip")
    assert type(model).__name__ in str(error.value) and "visionzip" in str(error.value)
    assert "use a method that reads no vision tower" in str(error.value)


@pytest.mark.parametrize(
    ("name", "samples", "lost"),
    [
        ("aria", PICTURES, "of 64 of the 64"),  # a resampler
        ("idefics2", PICTURES, "of 64 of the 64"),  # another
        ("llama4", PICTURES, "of 96 of the 96"),  # a shuffle, and weights, before the projector
        ("deepseek_vl_hybrid", PICTURES, "of 100 of the 100"),  # two towers in one token
        ("llava_onevision", CLIPS, "of 32 of the 70"),  # frames are interpolated by no module
    ],
)
def test_tokens_that_cannot_be_traced_are_refused_before_the_language_model(
    name: str, samples: Any, lost: str
) -> None:
    model, prompt = built(name, "sdpa"), FAMILIES[name].prompts(samples)
    ran: list[Any] = []
    model.get_decoder()
    inspect_model(model).layers[0].register_forward_pre_hook(lambda *_: ran.append(1))
    with reading(model), torch.no_grad(), pytest.raises(UnsupportedModelError, match=lost) as error:
        model(**prompt)
    assert not ran
    said = str(error.value)
    assert f"model={type(model).__name__}" in said and "use a method that reads no" in said


def test_pictures_that_were_not_encoded_for_this_prompt_are_refused() -> None:
    model = built("llava", "sdpa")
    with reading(model) as (reader, _), pytest.raises(SparseSightError, match="since the last prompt none"):
        reader.take(torch.zeros(1, 4, 32), torch.ones(1, 4, dtype=torch.bool))


def test_a_model_comes_back_as_it_was() -> None:
    model = built("llava", "sdpa")
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    with reading(model):
        tower = model.model.vision_tower.encoder.layers[1].self_attn
        assert vars(tower)["config"] is not before["model.vision_tower.encoder.layers.1.self_attn"]["config"]
    for name, module in model.named_modules():
        now = dict(vars(module))
        assert now.keys() == before[name].keys() and all(now[k] is before[name][k] for k in now), name
