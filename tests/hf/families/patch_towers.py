"""Towers that take patches of any number, as Qwen's, before other decoders: HyperCLOVA X, Command (Compass)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from . import base
from .base import Family, Sample
from .llava_like import clips, tokenized
from .llava_tiles import SLIDING, built

SQUARE = 6  # pixels of a patch
TOWER = {
    "depth": 2,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_heads": 2,
    "patch_size": SQUARE,
    "out_hidden_size": 32,
    "initializer_range": 0.3,
}
_WORDS = partial(base.tokenizer, "<image>", "<video>", "<start>", "<end>")
_SILENT = "<image> <video> <start> <end>"


def _ids() -> dict[str, int]:
    image, video = _WORDS().convert_tokens_to_ids(["<image>", "<video>"])
    return {"image_token_id": image, "video_token_id": video}


def patches(frames: torch.Tensor, size: int = SQUARE) -> tuple[torch.Tensor, list[int]]:
    """Frames [t, 3, h, w] as rows of pixels, two by two frames, in squares of two by two patches; and their grid."""
    t, _, h, w = frames.shape
    grid = [t // 2, h // size, w // size]
    x = frames.reshape(t // 2, 2, 3, h // size // 2, 2, size, w // size // 2, 2, size)
    return x.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(grid[0] * grid[1] * grid[2], -1), grid


def _prompts(samples: Sequence[Sample], types: bool) -> dict[str, Any]:
    """`types`: tell pictures and clips from text."""
    made: dict[str, Any] = {}
    words: dict[str, list[str]] = {"<image>": [], "<video>": []}
    for word, key, grid_key, each in (
        ("<image>", "pixel_values", "image_grid_thw", [_pixels(i) for s in samples for i in s.images]),
        ("<video>", "pixel_values_videos", "video_grid_thw", list(_clips(samples))),
    ):
        if each:
            rows, grids = zip(*map(patches, each), strict=True)
            made |= {key: torch.cat(rows), grid_key: torch.tensor(grids)}
            words[word] = [_framed(word, grid, types) for grid in grids]
    text = tokenized(_WORDS(), samples, words["<image>"], words["<video>"])
    if types:
        image, video = _WORDS().convert_tokens_to_ids(["<image>", "<video>"])
        ids = text["input_ids"]
        text["mm_token_type_ids"] = (ids == image) + 2 * (ids == video)
    return {**text, **made}


def _framed(word: str, grid: list[int], each_frame: bool) -> str:
    frames, count = (grid[0], 1) if each_frame else (1, grid[0])
    return " star ".join(["<start>" + word * (count * grid[1] * grid[2] // 4) + "<end>"] * frames)


def _pixels(image: Any) -> torch.Tensor:
    """A picture twice, its sides cut to whole squares of patches."""
    side = 2 * SQUARE
    x = torch.tensor(np.asarray(image)[: image.height // side * side, : image.width // side * side])
    return (x.permute(2, 0, 1) / 127.5 - 1).expand(2, -1, -1, -1)


def _clips(samples: Sequence[Sample]) -> list[torch.Tensor]:
    moving = clips(samples, 4, 8 * SQUARE)
    return [] if moving is None else list(moving)


def _clova() -> dict[str, Any]:
    from transformers.models.hyperclovax.configuration_hyperclovax import HyperCLOVAXConfig
    from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig

    vision = Qwen2_5_VLVisionConfig(**TOWER, window_size=4 * SQUARE, fullatt_block_indexes=[1])
    return {"vision_config": vision, "text_config": HyperCLOVAXConfig(**base.TEXT), **_ids()}


def _compass() -> dict[str, Any]:
    from transformers.models.cohere_compass.configuration_cohere_compass import (
        CohereCompassTextConfig,
        CohereCompassVisionConfig,
    )

    vision = CohereCompassVisionConfig(**TOWER, num_position_embeddings=16, deepstack_visual_indexes=[0, 1])
    rope = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [2, 1, 1],
        "mrope_interleaved": True,
    }
    text = {k: v for k, v in SLIDING.items() if k != "head_dim"}
    start, end = _WORDS().convert_tokens_to_ids(["<start>", "<end>"])
    return {
        "vision_config": vision,
        "text_config": CohereCompassTextConfig(
            **text, logit_scale=1.0, rope_parameters={"sliding_attention": rope, "full_attention": None}
        ),
        "vision_start_token_id": start,
        "vision_end_token_id": end,
        **_ids(),
    }


# Their processors take no video processor but torchvision's.
FAMILIES = (
    Family(
        "hyperclovax_vision_v2",
        built("HyperCLOVAXVisionV2", _WORDS(), _clova, _SILENT),
        partial(_prompts, types=False),
        visual="image, video",
        inputs="tensors",
        visual_ids=(4, 5),
    ),
    Family(
        "cohere_compass",
        built("CohereCompass", _WORDS(), _compass, _SILENT),
        partial(_prompts, types=True),
        visual="image, video",
        inputs="tensors",
        decoder="sliding window in 3 of 4 layers, deepstack, no positions in full layers",
        visual_ids=(4, 5),
        kinds="wwwfwwwfwwwfwwwf",
    ),
)
