"""GLM's vision-language models, from GLM-4.1V on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from .base import Family, Sample
from .grids import PATCH, SIZE, Layout, build, grid_prompts, rope

LAYOUT = Layout(
    tokens={
        "image_start_token": "<|begin_of_image|>",
        "image_end_token": "<|end_of_image|>",
        "video_start_token": "<|begin_of_video|>",
        "video_end_token": "<|end_of_video|>",
        "image_token": "<|image|>",  # of clips too
        "video_token": "<|video|>",
    },
    image="<|begin_of_image|><|image|><|end_of_image|>",
    video="<|begin_of_video|><|video|><|end_of_video|>",
)
VISION = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "image_size": 48,
    "patch_size": PATCH,
    "out_hidden_size": 32,
    "initializer_range": 0.1,
}
EXPERTS = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 24,
    "first_k_dense_replace": 1,
}


def _prompts(kind: str, stem: str, samples: Sequence[Sample]) -> dict[str, Any]:
    parts = import_module(f"transformers.models.{kind}.image_processing_pil_{kind}")
    images = getattr(parts, f"{stem}ImageProcessorPil")(
        patch_size=PATCH, size={edge: 2 * pixels for edge, pixels in SIZE.items()}
    )
    processor = getattr(import_module(f"transformers.models.{kind}.processing_{kind}"), f"{stem}Processor")
    return grid_prompts(samples, LAYOUT, processor, images)


def _filmed(prompts: Any, samples: Sequence[Sample]) -> dict[str, Any]:
    """Every picture as a clip of two frames: the family takes no pictures and clips in one batch."""

    def film(sample: Sample) -> Sample:
        still = tuple(np.stack([np.asarray(image), np.asarray(image)[::-1]]) for image in sample.images)
        return replace(
            sample, text=re.sub("<image>", "<video>", sample.text), images=(), videos=still + sample.videos
        )

    return prompts([film(sample) for sample in samples])


glm5_next = partial(  # refused
    build,
    "Glm5Next",
    LAYOUT,
    {
        **EXPERTS,
        "head_dim": 0,
        "num_key_value_heads": 4,
        "layer_types": ["linear_attention", "linear_attention", "indexed_attention"] * 2,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
        "index_topk": 16,
        "index_kpool": 4,
        "index_head_dim": 8,
        "index_n_heads": 2,
        "linear_head_dim": 8,
        "linear_num_heads": 2,
        "hc_mult": 2,
        "pad_token_id": 0,
    },
    VISION,
)
SECTIONS = rope(2, 1, 1, partial_rotary_factor=0.5)
G4, G46 = partial(_prompts, "glm4v", "Glm4v"), partial(_prompts, "glm46v", "Glm46V")
FAMILIES = (
    Family("glm4v", partial(build, "Glm4v", LAYOUT, SECTIONS, VISION), G4, visual_ids=(8, 9)),
    Family(
        "glm4v-video",
        partial(build, "Glm4v", LAYOUT, SECTIONS, VISION),
        partial(_filmed, G4),
        visual="image, video",
        broken={"beams": "transformers asks for clips where a sample has none"},
        visual_ids=(8, 9),
    ),
    Family(
        "glm46v",
        partial(
            build,
            "Glm46V",
            LAYOUT,
            {**SECTIONS, "model_type": "glm4v_text"},
            {**VISION, "model_type": "glm4v_vision"},
        ),
        G46,
        visual_ids=(8, 9),
    ),
    Family(
        "glmga",
        partial(
            build,
            "Glmga",
            LAYOUT,
            {**SECTIONS, "model_type": "glm4v_text"},
            {**VISION, "model_type": "glm4v_vision"},
            model="Glm46V",
        ),
        G46,
        visual_ids=(8, 9),
    ),
    Family(
        "glm4v_moe",
        partial(build, "Glm4vMoe", LAYOUT, {**EXPERTS, **SECTIONS}, VISION),
        G4,
        decoder="mixture of experts",
        visual_ids=(8, 9),
    ),
    Family("glm_ocr", partial(build, "GlmOcr", LAYOUT, rope(4, 2, 2), VISION), G46, visual_ids=(8, 9)),
)
