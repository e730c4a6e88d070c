"""Families with pictures of any size, neither Qwen nor GLM: ERNIE, PaddleOCR, HunYuan, EXAONE, VideoLLaMA."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from importlib import import_module
from typing import Any

import torch

from .base import Family, Sample
from .grids import PATCH, SIZE, Clips, Layout, build, grid_prompts, rope

VISION = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "patch_size": PATCH,
    "out_hidden_size": 32,
    "initializer_range": 0.1,
}
NAMED = {**VISION, "num_hidden_layers": 2, "num_attention_heads": 2}  # other names of the same
QWEN = Layout(
    tokens={"image_token": "<|image_pad|>", "video_token": "<|video_pad|>", "vision_start_token": "<vision>"},
    image="<vision><|image_pad|>",
    video="<vision><|video_pad|>",
)
ERNIE = Layout(
    tokens={
        "image_token": "<|IMAGE_PLACEHOLDER|>",
        "image_start_token": "<|IMAGE_START|>",
        "image_end_token": "<|IMAGE_END|>",
        "video_token": "<|VIDEO_PLACEHOLDER|>",
        "video_start_token": "<|VIDEO_START|>",
        "video_end_token": "<|VIDEO_END|>",
    },
    image="<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>",
    video="<|VIDEO_START|><|VIDEO_PLACEHOLDER|><|VIDEO_END|>",
)
PADDLE = Layout(ERNIE.tokens, ERNIE.image)
HUNYUAN = Layout(
    tokens={"image_token": "<img>", "image_start_token": "<im_start>", "image_end_token": "<im_end>"},
    image="<im_start><img><im_end>",
)


class CompressedClips(Clips):
    """VideoLLaMA3 leaves out what hardly changes from frame to frame: here every third token after the first frame."""

    def __call__(self, videos: Any, **kwargs: Any) -> dict[str, Any]:
        out = super().__call__(videos, **kwargs)
        masks = []
        for frames, height, width in out["video_grid_thw"].tolist():
            count = height * width // self.merge_size**2
            places = torch.arange(frames * count)
            masks.append((places < count) | (places % 3 > 0))
        merged = torch.full((len(masks),), self.merge_size)
        return {**out, "video_merge_sizes": merged, "video_compression_mask": torch.cat(masks)}


def _prompts(
    layout: Layout, kind: str, stem: str, images: tuple[str, str], clips: Any, samples: Sequence[Sample]
) -> dict[str, Any]:
    module, name = images
    pictures = getattr(import_module(f"transformers.models.{module}.image_processing_pil_{module}"), name)(
        patch_size=PATCH, merge_size=2, size=SIZE
    )
    processor = getattr(import_module(f"transformers.models.{kind}.processing_{kind}"), f"{stem}Processor")
    return grid_prompts(samples, layout, processor, pictures, clips and clips(pictures))


ERNIE_TEXT = {
    "moe_intermediate_size": [24, 16],
    "moe_num_experts": 4,
    "moe_k": 2,
    "moe_num_shared_experts": 1,
    "pad_token_id": 0,
    **rope(3, 3, 2),
}
FAMILIES = (
    Family(
        "ernie4_5_vl_moe",
        partial(build, "Ernie4_5_VLMoe", ERNIE, ERNIE_TEXT, VISION),
        partial(
            _prompts,
            ERNIE,
            "ernie4_5_vl_moe",
            "Ernie4_5_VLMoe",
            ("ernie4_5_vl_moe", "Ernie4_5_VLMoeImageProcessorPil"),
            partial(Clips, temporal_patch_size=2),
        ),
        visual="image, video",
        decoder="experts of their own for visual tokens",
        visual_ids=(4, 7),
    ),
    Family(
        "paddleocr_vl",
        partial(build, "PaddleOCRVL", PADDLE, rope(4, 2, 2), {**NAMED, "image_size": 48}),
        partial(
            _prompts,
            PADDLE,
            "paddleocr_vl",
            "PaddleOCRVL",
            ("paddleocr_vl", "PaddleOCRVLImageProcessorPil"),
            None,
        ),
        visual_ids=(4, 7),
    ),
    Family(
        "exaone4_5",
        partial(
            build,
            "Exaone4_5_",
            QWEN,
            {"model_type": "exaone4", "sliding_window": 20, "sliding_window_pattern": 3},
            {**VISION, "num_key_value_heads": 1, "window_size": 24, "fullatt_block_indexes": [1]},
        ),
        partial(_prompts, QWEN, "exaone4_5", "Exaone4_5_", ("qwen2_vl", "Qwen2VLImageProcessorPil"), None),
        visual="image, video",
        decoder="sliding window in 2 of 3 layers",
        visual_ids=(4, 5),
        kinds="wwfwwf",
        stages=(2,),
    ),
    Family(
        "video_llama_3",
        partial(build, "VideoLlama3", QWEN, {"model_type": "qwen2"}, NAMED),
        partial(
            _prompts,
            QWEN,
            "video_llama_3",
            "VideoLlama3",
            ("video_llama_3", "VideoLlama3ImageProcessorPil"),
            CompressedClips,
        ),
        visual="image, video",
        visual_ids=(4, 5),
    ),
    Family(
        "hunyuan_vl",
        partial(
            build,
            "HunYuanVL",
            HUNYUAN,
            rope(2, 2, 2, 2),
            {**NAMED, "max_image_size": 96, "img_max_token_num": 256, "text_hidden_size": 32},
        ),
        partial(
            _prompts, HUNYUAN, "hunyuan_vl", "HunYuanVL", ("hunyuan_vl", "HunYuanVLImageProcessorPil"), None
        ),
        broken={
            "batch": "transformers counts pictures over the whole batch in the positions of a sample",
            "rotation": "the halves of a head are turned by different axes: the weight counts the first",
        },
    ),
)
