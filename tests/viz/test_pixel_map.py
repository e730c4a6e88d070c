"""Where a processor puts a picture is measured to a small part of a patch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPVisionConfig, LlavaConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from sparsesight import SparseSightError
from sparsesight.viz.patch_grid import View
from sparsesight.viz.token_layouts import LayoutInput, views

SIZES = [(336, 336), (640, 480), (480, 640), (1000, 351), (2400, 300), (77, 201), (33, 20), (1, 1)]
SQUARE = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}


def config(edge: int = 336) -> LlavaConfig:
    return LlavaConfig(vision_config=CLIPVisionConfig(image_size=edge, patch_size=14))


def view(images: Any, size: tuple[int, int], edge: int = 336) -> View:
    (only,) = views(LayoutInput(config(edge), images, size, {}))
    return only


def smooth(width: int, height: int, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 255, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def seen(images: Any, picture: Image.Image) -> np.ndarray[Any, Any]:
    """What the model gets of a picture, [height, width, 3], as the processor itself makes it."""
    pixels = images(picture, do_normalize=False, do_rescale=False, return_tensors="pt")["pixel_values"]
    return torch.as_tensor(pixels[0]).permute(1, 2, 0).numpy().astype(float)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_llavas_crop(size: tuple[int, int]) -> None:
    images = CLIPImageProcessorPil(**SQUARE)
    box = view(images, size).box
    # By the definition: the shortest edge becomes 336, and the middle of the other is cut out.
    side = min(size)
    left, top = ((edge - side) / 2 for edge in size)
    tolerance = 0.1 * side / 24  # of a patch; and cutting takes whole pixels
    assert box == pytest.approx((left, top, left + side, top + side), abs=tolerance + side / 336)
    if min(size) > 50:
        picture = smooth(*size)
        clipped = [min(max(edge, 0), limit) for edge, limit in zip(box, size * 2, strict=True)]
        ours = np.asarray(picture.resize((336, 336), Image.Resampling.BICUBIC, clipped), dtype=float)
        theirs = seen(images, picture)
        assert np.abs(ours - theirs).mean() < 1.0
        shifted = np.roll(ours, 7, axis=int(size[0] > size[1]))  # it notices half a patch
        assert np.abs(shifted - theirs).mean() > 1.5


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (1000, 351), (2000, 40), (336, 336)], ids=str)
def test_padding_to_a_square_lies_outside_of_the_picture(size: tuple[int, int]) -> None:
    box = view(LlavaImageProcessorPil(do_pad=True, **SQUARE), size).box
    side = max(size)
    left, top = ((edge - side) / 2 for edge in size)
    assert box == pytest.approx((left, top, left + side, top + side), abs=0.25 * side / 24)


def test_a_fixed_size_is_stretched_and_the_rest_of_the_last_patch_is_not_seen() -> None:
    """SigLIP: 384 pixels hold 27 patches of 14, and 6 pixels that no patch covers."""
    images = SiglipImageProcessorPil(size={"height": 384, "width": 384})
    stretched = view(images, (768, 192), 384)
    assert (stretched.rows, stretched.columns) == (27, 27)
    assert stretched.box == pytest.approx((0, 0, 756, 189), abs=0.05 * 28)


def test_a_processor_that_rescales_all_the_same_is_refused() -> None:
    images = CLIPImageProcessorPil(**SQUARE)

    def stubborn(**kwargs: Any) -> Any:
        return images(**{**kwargs, "do_rescale": True})

    with pytest.raises(SparseSightError, match="rescales"):
        view(stubborn, (64, 64))


def test_a_family_without_a_rule_is_refused() -> None:
    strange = config()
    strange.model_type = "odd"
    with pytest.raises(SparseSightError, match=r"no picture .* for 'odd' yet.*llava_next"):
        views(LayoutInput(strange, CLIPImageProcessorPil(**SQUARE), (64, 64), {}))
