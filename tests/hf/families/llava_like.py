"""LLaVA and its kin: a vision tower, a projector, a stock decoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    MistralConfig,
    PixtralVisionConfig,
    Qwen2Config,
    SiglipVisionConfig,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from . import base
from .base import Family, Sample
from .prompts import PATCH, SIDE, pixtral_prompts, processed, tokenized

Make = Callable[..., Any]

TOWER = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": PATCH,
    "initializer_range": 0.3,
}
CLIP = {**TOWER, "projection_dim": 16}
SMALL = 32  # side of a tile where a picture is cut into several: 16 visual tokens each
GRIDS = [[32, 64], [64, 32]]
FIXED = {"size": {"height": SIDE, "width": SIDE}}


def clips(samples: Sequence[Sample], frames: int, side: int = SMALL) -> torch.Tensor | None:
    """The first frames of the clips [clips, frames, 3, side, side] in -1..1, cut to that size."""
    each = [torch.from_numpy(clip[:frames, :side, :side]) for sample in samples for clip in sample.videos]
    return torch.stack(each).permute(0, 1, 4, 2, 3) / 127.5 - 1 if each else None


def _ids(*words: str) -> list[int]:
    return base.tokenizer("<image>", "<video>").convert_tokens_to_ids(list(words))


# --- one tile per picture ---------------------------------------------------------------------------------------


def _llava(vision: Make, text: Make, **config: Any) -> Callable[[str], Any]:
    def build(attention: str) -> Any:
        base.seed()
        (image,) = _ids("<image>")
        made = LlavaConfig(
            vision_config=vision(),
            text_config=text(),
            image_token_index=image,
            attn_implementation=attention,
            **{"vision_feature_layer": -1, **config},
        )
        return base.finish(LlavaForConditionalGeneration(made), image)

    return build


def _clip_prompts(samples: Sequence[Sample]) -> dict[str, Any]:
    size = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(**size),
        tokenizer=base.tokenizer("<image>"),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return processed(processor, samples)


def _siglip_prompts(samples: Sequence[Sample]) -> dict[str, Any]:
    processor = LlavaProcessor(
        image_processor=SiglipImageProcessorPil(**FIXED),
        tokenizer=base.tokenizer("<image>"),
        patch_size=PATCH,
        vision_feature_select_strategy="full",
    )
    return processed(processor, samples)


def _vipllava(attention: str) -> Any:
    from transformers import VipLlavaConfig, VipLlavaForConditionalGeneration

    base.seed()
    (image,) = _ids("<image>")
    older = "" if hasattr(VipLlavaConfig, "vision_feature_layer") else "s"
    config = VipLlavaConfig(
        vision_config=CLIPVisionConfig(**CLIP),
        text_config=LlamaConfig(**base.TEXT),
        image_token_index=image,
        attn_implementation=attention,
        **{f"vision_feature_layer{older}": [-1, -2]},
    )
    return base.finish(VipLlavaForConditionalGeneration(config), image)


# --- several tiles per picture, and clips -----------------------------------------------------------------------


def _tiled(family: str, vision: Make, text: Make, **extra: Any) -> Callable[[str], Any]:
    def build(attention: str) -> Any:
        import transformers

        base.seed()
        image, video = _ids("<image>", "<video>")
        config = getattr(transformers, f"{family}Config")(
            vision_config=vision(),
            text_config=text(),
            image_token_index=image,
            vision_feature_layer=-1,
            attn_implementation=attention,
            **({} if family == "LlavaNext" else {"video_token_index": video}),
            **extra,
        )
        return base.finish(getattr(transformers, f"{family}ForConditionalGeneration")(config), image, video)

    return build


def tiled_images(name: str) -> Any:
    """The PIL processor that cuts pictures into tiles."""
    from importlib import import_module

    kind = name.lower().replace("llava", "llava_")
    made = getattr(
        import_module(f"transformers.models.{kind}.image_processing_pil_{kind}"), f"{name}ImageProcessorPil"
    )
    if name == "LlavaNext":
        size = {"size": {"shortest_edge": SMALL}, "crop_size": {"height": SMALL, "width": SMALL}}
    else:
        size = {"size": {"height": SMALL, "width": SMALL}}
    return made(**size, image_grid_pinpoints=GRIDS)


def _next_prompts(samples: Sequence[Sample]) -> dict[str, Any]:
    from transformers import LlavaNextProcessor

    processor = LlavaNextProcessor(
        image_processor=tiled_images("LlavaNext"),
        tokenizer=base.tokenizer("<image>", "<video>"),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return processed(processor, samples)


def _video_prompts(
    images: Make, count: Callable[[int, dict[str, Any]], int], frames: int, per_clip: int
) -> Callable[[Sequence[Sample]], dict[str, Any]]:
    """Prompts by hand: `count` tells the visual tokens of a picture from what `images` made of it."""

    def prompts(samples: Sequence[Sample]) -> dict[str, Any]:
        pictures = [image for sample in samples for image in sample.images]
        made = dict(images()(pictures, return_tensors="pt")) if pictures else {}
        words = ["<image>" * count(i, made) for i in range(len(pictures))]
        moving = clips(samples, frames)
        videos = ["<video>" * per_clip] * (0 if moving is None else len(moving))
        text = tokenized(base.tokenizer("<image>", "<video>"), samples, words, videos)
        return {**text, **made, **({} if moving is None else {"pixel_values_videos": moving})}

    return prompts


def _video_llava_prompts(samples: Sequence[Sample]) -> dict[str, Any]:
    images = _video_prompts(_clip_images, lambda number, made: _TOKENS, frames=2, per_clip=2 * (_TOKENS + 1))
    prompt = images(samples)
    if "pixel_values" in prompt and not base.takes("VideoLlavaForConditionalGeneration", "pixel_values"):
        prompt["pixel_values_images"] = prompt.pop("pixel_values")  # its older name
    return prompt


def _tile_tokens(number: int, made: dict[str, Any]) -> int:
    """Visual tokens of a picture in tiles: the whole, then what is left of the tiles without their padding."""
    from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape, unpad_image

    size, side = made["image_sizes"][number], SMALL // PATCH
    high, wide = get_anyres_image_grid_shape(size, GRIDS, SMALL)
    _, rows, columns = unpad_image(torch.empty(1, high * side, wide * side), size).shape
    return side**2 + rows * (columns + 1)


def _clip_images() -> Any:
    return CLIPImageProcessorPil(size={"shortest_edge": SMALL}, crop_size={"height": SMALL, "width": SMALL})


# Made anew for each model, as they remember its attention implementation.
_LLAMA = partial(LlamaConfig, **base.TEXT)
_QWEN = partial(Qwen2Config, **base.TEXT)
_CLIP = partial(CLIPVisionConfig, **CLIP)
_SIGLIP = partial(SiglipVisionConfig, **TOWER, vision_use_head=False)
_SMALL_CLIP = partial(_CLIP, image_size=SMALL)
_SMALL_SIGLIP = partial(_SIGLIP, image_size=SMALL)
_TOKENS = (SMALL // PATCH) ** 2

FAMILIES = (
    Family("llava", _llava(_CLIP, _LLAMA), _clip_prompts),
    # PixtralProcessor needs torchvision.
    Family(
        "llava-pixtral",
        _llava(
            partial(PixtralVisionConfig, **TOWER, head_dim=8),
            partial(MistralConfig, **base.TEXT, sliding_window=20),
            vision_feature_select_strategy="full",
        ),
        pixtral_prompts,
        inputs="tensors",
        decoder="sliding window",
        kinds="wwwwww",
    ),
    Family(
        "llava-siglip",
        _llava(_SIGLIP, _QWEN, vision_feature_select_strategy="full"),
        _siglip_prompts,
    ),
    Family("vipllava", _vipllava, _clip_prompts),
    Family("llava_next", _tiled("LlavaNext", _SMALL_CLIP, _LLAMA, image_grid_pinpoints=GRIDS), _next_prompts),
    # Their processors take no video processor but torchvision's.
    Family(
        "llava_next_video",
        _tiled("LlavaNextVideo", _SMALL_CLIP, _LLAMA, image_grid_pinpoints=GRIDS),
        _video_prompts(lambda: tiled_images("LlavaNext"), _tile_tokens, frames=4, per_clip=_TOKENS),
        visual="image, video",
        inputs="tensors",
        visual_ids=(4, 5),
    ),
    Family(
        "llava_onevision",
        _tiled("LlavaOnevision", _SMALL_SIGLIP, _QWEN, image_grid_pinpoints=GRIDS),
        _video_prompts(lambda: tiled_images("LlavaOnevision"), _tile_tokens, frames=4, per_clip=_TOKENS + 1),
        visual="image, video",
        inputs="tensors",
        visual_ids=(4, 5),
    ),
    Family(
        "video_llava",
        _tiled("VideoLlava", _SMALL_CLIP, _LLAMA),
        _video_llava_prompts,
        visual="image, video",
        inputs="tensors",
        visual_ids=(4, 5),
    ),
)
