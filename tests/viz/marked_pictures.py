"""Whether a marked patch is the token that a model says it is: processor and tower are asked, without our geometry.

A tower whose attention adds nothing gives every patch features of its own, so a mark in the picture changes the
features of the tokens that see it, and of no others but for what resizing bleeds over edges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from sparsesight import sparsify, viz
from tests.hf.families import (
    ALL,
    gemma_like,
    grids,
    idefics_like,
    llava_like,
    llava_tiles,
)
from tests.hf.families.base import Sample, tokenizer

OUTPUTS = ("out_proj", "o_proj", "attn.proj", "projection_layer")  # of towers' attention
MARK, GROUND = (255, 0, 0), (90, 120, 90)


@dataclass(frozen=True)
class Case:
    """A family with its real image processor, which is told what its whole processor is told."""

    name: str
    images: Callable[[], Any]
    how: dict[str, Any] = field(default_factory=dict)


def _qwen() -> Any:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    return Qwen2VLImageProcessorPil(patch_size=grids.PATCH, size=grids.SIZE)


def _glm() -> Any:
    from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil

    return Glm4vImageProcessorPil(
        patch_size=grids.PATCH, size={edge: 2 * pixels for edge, pixels in grids.SIZE.items()}
    )


def _clip() -> Any:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    side = llava_like.SIDE
    return CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


def _siglip(side: int) -> Any:
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    return SiglipImageProcessorPil(size={"height": side, "width": side})


def _gemma3() -> Any:
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    return Gemma3ImageProcessorPil(size={"height": gemma_like.SIDE, "width": gemma_like.SIDE})


def _pixtral(patch: int) -> Any:
    from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

    return PixtralImageProcessorPil(size={"longest_edge": 48}, patch_size={"height": patch, "width": patch})


def _idefics3() -> Any:
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    side = idefics_like.SIDE
    return Idefics3ImageProcessorPil(size={"longest_edge": 2 * side}, max_image_size={"longest_edge": side})


CASES = (
    Case("llava", _clip),
    Case("llava-siglip", lambda: _siglip(llava_like.SIDE)),
    Case("llava-pixtral", lambda: _pixtral(llava_like.PATCH)),
    Case("vipllava", _clip),
    Case("llava_next", lambda: llava_like.tiled_images("LlavaNext")),
    Case("llava_next_video", lambda: llava_like.tiled_images("LlavaNext")),
    Case("llava_onevision", lambda: llava_like.tiled_images("LlavaOnevision")),
    Case("internvl", llava_tiles.tiles),
    Case("qianfan_ocr", llava_tiles.tiles),
    Case("aya_vision", llava_tiles.tiles),
    Case("cohere2_vision", llava_tiles.tiles),
    Case("gemma3", _gemma3),
    Case("paligemma", lambda: _siglip(gemma_like.SIDE)),
    Case("idefics3", _idefics3),
    Case("mistral3", lambda: _pixtral(8)),
    Case("lighton_ocr", lambda: _pixtral(8)),
    Case("qwen2_vl", _qwen),
    Case("qwen2_5_vl", _qwen),
    Case("qwen3_vl", _qwen),
    Case("qwen3_vl_moe", _qwen),
    Case("qwen3_5", _qwen),
    Case("qwen3_5_moe", _qwen),
    Case("glm4v", _glm),
)


def silent(model: Any) -> Any:
    """The model with a tower whose attention adds nothing."""
    inner = getattr(model, "model", model)
    names = ("video_tower", "vision_tower", "vision_model", "vision_encoder", "visual")
    tower = next(getattr(inner, name) for name in names if hasattr(inner, name))
    quiet = [m for name, m in tower.named_modules() if name.endswith(OUTPUTS) and ".mlp" not in name]
    assert quiet
    with torch.no_grad():
        for module in quiet:
            for parameter in module.parameters():
                parameter.zero_()
    return model


class Eye:
    """A family's model, and what it sees of pictures."""

    def __init__(self, case: Case) -> None:
        self.case = case
        (self.family,) = [family for family in ALL if family.name == case.name]
        self.model = silent(self.family.build("sdpa"))
        self.processor = SimpleNamespace(image_processor=case.images(), tokenizer=tokenizer())

    def sees(self, *images: Image.Image, videos: Sequence[np.ndarray] = ()) -> tuple[torch.Tensor, Any]:
        """Features of the visual tokens [v, c], and a handle that has run."""
        words = " ".join(["<image>"] * len(images) + ["<video>"] * len(videos))
        prompts = self.family.prompts(
            [Sample(f"USER : {words} what is the red star ?", images, tuple(videos))]
        )
        found: list[torch.Tensor] = []
        with sparsify(self.model, "fastv", retain=0.7) as run:

            def keep(module: Any, args: Any, kwargs: Any) -> None:
                found.append(kwargs["inputs_embeds"][0].detach())

            hook = self.model.get_decoder().register_forward_pre_hook(keep, with_kwargs=True)
            with torch.no_grad():
                self.model(**prompts)
            hook.remove()
        visual = torch.isin(prompts["input_ids"][0], torch.tensor(run.visual_ids))
        return found[0][visual], (run, prompts)


def ground(width: int, height: int) -> Image.Image:
    """A picture in which no two places look quite alike, all of them far from the mark."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    pixels = np.stack([GROUND[0] + 20 * x, GROUND[1] + 20 * y, GROUND[2] + 10 * x * y], -1)
    return Image.fromarray(pixels.astype(np.uint8))


def marked(image: Image.Image, box: tuple[float, float, float, float]) -> Image.Image:
    """With a red patch, of a pixel or more."""
    left, top = min(round(box[0]), image.width - 1), min(round(box[1]), image.height - 1)
    right, bottom = max(round(box[2]) - 1, left), max(round(box[3]) - 1, top)
    image = image.copy()
    ImageDraw.Draw(image).rectangle((left, top, right, bottom), MARK)
    return image


def inner(box: tuple[float, float, float, float], share: float = 0.15) -> tuple[float, float, float, float]:
    x, y = share * (box[2] - box[0]), share * (box[3] - box[1])
    return box[0] + x, box[1] + y, box[2] - x, box[3] - y


def places(view: viz.View, image: Image.Image) -> list[tuple[int, tuple[float, float, float, float]]]:
    """Tokens to try: the corners of what lies within the picture, and some between."""
    cells = [
        (token, box)
        for token, box in view.cells()
        if token not in view.ends
        and box[0] > -0.01 * image.width
        and box[1] > -0.01 * image.height
        and box[2] < 1.01 * image.width
        and box[3] < 1.01 * image.height
    ]
    assert cells
    at = sorted(
        {0, view.columns - 1, len(cells) // 3, len(cells) // 2, len(cells) - view.columns, len(cells) - 1}
    )
    return [cells[i] for i in at if 0 <= i < len(cells)]
