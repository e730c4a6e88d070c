"""Pictures without the parts that their neighbours predict, before the vision tower."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from transformers import AttentionInterface

from sparsesight import SparseSightError, UnsupportedModelError, drop_predicted, sparsify
from sparsesight.hf.predicted import kept_units

from .families import ALL
from .families.base import CLIPS, SAMPLES, Sample
from .families.oracle import blinded

FAMILIES = {family.name: family for family in ALL}
NAMES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "glm4v")
HOW = {"max_new_tokens": 3, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}


def page(width: int = 96, height: int = 72) -> Image.Image:
    """White paper with a red box and a line."""
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((14, 14, 40, 30), fill="red")
    draw.line((30, 40, width - 6, 40), fill="black")
    return image


PAGES = (
    Sample("what is the <image> red star ? ASSISTANT :", (page(),)),
    Sample("the <image> and <image> ring ?", (page(48, 48), page(60, 96))),
)


@lru_cache(maxsize=1)
def built(name: str, attention: str = "eager") -> Any:
    model = FAMILIES[name].build(attention)
    if "mm_encoder_outputs" not in inspect.signature(model.forward).parameters:
        pytest.skip("this transformers takes no encoded pictures")
    return model


def generate(model: Any, inputs: Any) -> Tensor:
    with torch.no_grad():
        return torch.stack(model.generate(**inputs, **HOW).logits, 1)


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)


@contextmanager
def tower_blind(tower: Any, order: Tensor, gone: Tensor) -> Iterator[None]:
    """Within it, no patch of the tower attends to those that are `gone`; sequences come in this `order` of patches."""
    place = [0]

    def attend(
        module: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, scaling: float, **__: Any
    ) -> Any:
        n = query.shape[2]
        rows = order[place[0] : place[0] + n]
        place[0] = (place[0] + n) % len(order)
        hidden = gone[rows].expand(n, n) & ~torch.eye(n, dtype=torch.bool)
        weight = (query @ key.transpose(2, 3) * scaling).masked_fill(hidden, float("-inf")).softmax(-1)
        return (weight @ value).transpose(1, 2), None

    AttentionInterface.register("blind_tower", attend)
    before, tower.config._attn_implementation = tower.config._attn_implementation, "blind_tower"
    try:
        yield
    finally:
        tower.config._attn_implementation = before
        AttentionInterface._global_mapping.pop("blind_tower")


def patch_order(tower: Any, grids: Tensor, merge: int) -> Tensor:
    """Which patch is where in the sequence that the tower's layers see."""
    patches = torch.arange(int(grids.prod(1).sum()))
    if not hasattr(tower, "window_size"):
        return patches
    from transformers.vision_utils import get_vision_window_index

    index, _ = get_vision_window_index(grids, merge, tower.window_size, tower.patch_size)
    return patches.view(-1, merge**2)[index].flatten()


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_dense_model_that_does_not_see_what_is_left_out(name: str) -> None:
    family, model = FAMILIES[name], built(name)
    for sample in PAGES:
        prompt = family.prompts([sample])
        tower, merge = model.model.visual, model.config.vision_config.spatial_merge_size
        grids = prompt["image_grid_thw"]
        stay = torch.cat([x.flatten() for x in kept_units(prompt["pixel_values"], grids, merge)])
        assert 0 < stay.sum() < 0.7 * len(stay)
        visual = (prompt["input_ids"][0] == model.config.image_token_id).nonzero()[:, 0]
        gone = dict.fromkeys(range(len(family.kinds)), visual[~stay])
        hidden = (~stay).repeat_interleave(merge**2)
        layers = model.get_submodule(family.layers)
        with (
            tower_blind(tower, patch_order(tower, grids, merge), hidden),
            blinded(layers, family.kinds, gone),
        ):
            dense = generate(model, prompt)
        inputs = drop_predicted(model, prompt)
        assert inputs["input_ids"].shape[1] == prompt["input_ids"].shape[1] - int((~stay).sum())
        close(generate(model, inputs), dense)
        with torch.no_grad():
            close(model(**drop_predicted(model, prompt)).logits[:, -1], dense[:, 0])


@pytest.mark.parametrize("name", NAMES)
def test_each_sample_of_a_batch_gets_what_it_gets_alone(name: str) -> None:
    """Clips are encoded whole; pictures of one shape of noise lose nothing, and are the dense model bit for bit."""
    family, model = FAMILIES[name], built(name)
    samples = [*PAGES, *(CLIPS[1:] if "video" in family.visual else ())]
    whole = generate(model, drop_predicted(model, family.prompts(samples)))
    for i, sample in enumerate(samples):
        close(whole[i], generate(model, drop_predicted(model, family.prompts([sample])))[0])
    noise = family.prompts(SAMPLES[:2])
    inputs = drop_predicted(model, noise)
    assert torch.equal(inputs["input_ids"], noise["input_ids"])
    assert torch.equal(generate(model, inputs), generate(model, noise))


@pytest.mark.parametrize("name", NAMES)
def test_the_rest_is_pruned_like_any_prompt(name: str) -> None:
    """Also by the attention of the tower, and by what the same prompt alone keeps."""
    family, model = FAMILIES[name], built(name)
    for method in ("uniform", "vispruner", "fastv"):
        with sparsify(model, method, retain=0.5) as run:
            generate(model, drop_predicted(model, family.prompts(PAGES)))
            kept, visual = run.kept, run.report.samples
            generate(model, drop_predicted(model, family.prompts(PAGES[:1])))
            assert all(torch.equal(a[0], b[0]) for a, b in zip(kept, run.kept, strict=True))
        inputs = drop_predicted(model, family.prompts(PAGES))
        count = (inputs["input_ids"] == model.config.image_token_id).sum(1).tolist()
        assert [x.visual_tokens for sample in visual for x in sample.regions] == count


def test_a_threshold_leaves_out_more() -> None:
    family, model = FAMILIES["qwen2_vl"], built("qwen2_vl")
    prompt = family.prompts(PAGES[:1])
    prompt["pixel_values"] = prompt["pixel_values"] + 0.01 * torch.rand_like(prompt["pixel_values"])
    whole, near, one = (
        drop_predicted(model, prompt, threshold)["input_ids"].shape[1] for threshold in (0, 0.02, 100)
    )
    assert whole == prompt["input_ids"].shape[1] > near > one == whole - 48 + 1


def test_labels_masks_and_prompts_without_pictures() -> None:
    family, model = FAMILIES["qwen2_vl"], built("qwen2_vl")
    prompt = family.prompts(PAGES)
    ids = prompt["input_ids"]
    inputs = drop_predicted(model, {**prompt, "labels": ids.masked_fill(prompt["attention_mask"] == 0, -100)})
    assert inputs["labels"].shape == inputs["input_ids"].shape
    assert torch.equal(inputs["labels"] == -100, inputs["attention_mask"] == 0)
    with torch.no_grad():
        assert model(**inputs).loss.isfinite()
    text = family.prompts([Sample("what is the red star ?")])
    assert drop_predicted(model, text).keys() == text.keys()


def test_what_is_refused() -> None:
    family, model = FAMILIES["qwen2_vl"], built("qwen2_vl")
    prompt = family.prompts(PAGES[:1])
    for threshold in (-1, True, float("nan"), "0"):
        with pytest.raises(SparseSightError, match="threshold="):
            drop_predicted(model, prompt, threshold)  # type: ignore[arg-type]
    without = {k: v for k, v in prompt.items() if k != "image_grid_thw"}
    with pytest.raises(SparseSightError, match="image_grid_thw is missing"):
        drop_predicted(model, without)
    with pytest.raises(SparseSightError, match="does not fit pixel_values"):
        drop_predicted(model, {**prompt, "pixel_values": prompt["pixel_values"][1:]})
    with pytest.raises(SparseSightError, match="picture tokens in input_ids"):
        drop_predicted(model, {**prompt, "input_ids": prompt["input_ids"][:, :-20]})
    llava = FAMILIES["llava"]
    with pytest.raises(UnsupportedModelError, match="encode_once=True"):
        drop_predicted(llava.build("eager"), llava.prompts([SAMPLES[0]]))
