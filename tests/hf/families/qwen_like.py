"""Qwen's vision-language models: pictures of any size, clips, three axes of positions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from . import base
from .base import Family, Sample
from .grids import PATCH, SIZE, Layout, build, grid_prompts, rope

LAYOUT = Layout(
    tokens={
        "vision_start_token": "<|vision_start|>",
        "vision_end_token": "<|vision_end|>",
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
    },
    image="<|vision_start|><|image_pad|><|vision_end|>",
    video="<|vision_start|><|video_pad|><|vision_end|>",
)
VISION = {
    "depth": 3,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "patch_size": PATCH,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "initializer_range": 0.1,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
LINEAR = {
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "layer_types": ["linear_attention", "linear_attention", "full_attention"] * (base.LAYERS // 3),
}


def _prompts(processor: str, samples: Sequence[Sample]) -> dict[str, Any]:
    import transformers
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    images = Qwen2VLImageProcessorPil(patch_size=PATCH, size=SIZE)
    return grid_prompts(samples, LAYOUT, getattr(transformers, processor), images)


def _omni_prompts(samples: Sequence[Sample]) -> dict[str, Any]:
    prompts = _prompts("Qwen2VLProcessor", samples)
    prompts.pop("mm_token_type_ids", None)  # found from the ids
    if "video_grid_thw" in prompts:
        prompts["video_second_per_grid"] = torch.ones(len(prompts["video_grid_thw"]))
    return prompts


def _omni(name: str, stem: str, text: dict[str, Any], vision: dict[str, Any], decoder: str = "") -> Family:
    sound = {"encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16, "d_model": 16}
    sound |= {"num_mel_bins": 8, "output_dim": 32, "downsample_hidden_size": 8}
    ids = {name.replace("_id", "_index"): id for name, id in LAYOUT.ids().items()}
    make = partial(
        build, stem, LAYOUT, text, {**VISION, **vision}, audio_config=sound, initializer_range=0.3, **ids
    )
    # Its processor is asked for sound too: that of Qwen2-VL writes the same prompts.
    return Family(
        name, make, _omni_prompts, visual="image, video", inputs="tensors", decoder=decoder, visual_ids=(6, 7)
    )


def family(
    name: str,
    stem: str,
    processor: str,
    text: dict[str, Any],
    vision: dict[str, Any],
    decoder: str = "",
    **described: Any,
) -> Family:
    return Family(
        name,
        partial(build, stem, LAYOUT, text, {**VISION, **vision}),
        partial(_prompts, processor),
        visual="image, video",
        decoder=decoder,
        visual_ids=(6, 7),
        **described,
    )


NARROW = {"head_dim": 8, **rope(2, 1, 1)}  # heads of 8
OUT = {"out_hidden_size": 32}
STACKED = {**OUT, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1, 2]}
PLAIN = {**OUT, "num_position_embeddings": 64}
qwen4_exp = partial(  # refused
    build,
    "Qwen4Exp",
    LAYOUT,
    {
        **LINEAR,
        **EXPERTS,
        "shared_expert_intermediate_size": 24,
        "hc_lowrank": 8,
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 16,
        "indexer_compress_ratio": 4,
        **rope(2, 1, 1, mrope_interleaved=True, partial_rotary_factor=0.5),
    },
    {**VISION, **PLAIN},
)
FAMILIES = (
    family("qwen2_vl", "Qwen2VL", "Qwen2VLProcessor", NARROW, {"embed_dim": 32}),
    family(
        "qwen2_vl-sliding",
        "Qwen2VL",
        "Qwen2VLProcessor",
        {**NARROW, "use_sliding_window": True, "sliding_window": 20, "max_window_layers": 3},
        {"embed_dim": 32},
        "sliding window in the last half",
        kinds="fffwww",
    ),
    family(
        "qwen2_5_vl",
        "Qwen2_5_VL",
        "Qwen2_5_VLProcessor",
        NARROW,
        {**OUT, "window_size": 24, "fullatt_block_indexes": [1]},
    ),
    family(
        "qwen3_vl",
        "Qwen3VL",
        "Qwen3VLProcessor",
        rope(4, 2, 2, mrope_interleaved=True),
        STACKED,
        "deepstack",
    ),
    family(
        "qwen3_vl_moe",
        "Qwen3VLMoe",
        "Qwen3VLProcessor",
        {**EXPERTS, **rope(4, 2, 2, mrope_interleaved=True)},
        STACKED,
        "deepstack, mixture of experts",
    ),
    family(
        "qwen3_5",
        "Qwen3_5",
        "Qwen3VLProcessor",
        {**LINEAR, **rope(2, 1, 1, mrope_interleaved=True, partial_rotary_factor=0.5)},
        PLAIN,
        "linear attention in 2 of 3 layers",
        kinds="rrfrrf",
        stages=(2,),
    ),
    family(
        "qwen3_5_moe",
        "Qwen3_5Moe",
        "Qwen3VLProcessor",
        {
            **LINEAR,
            **EXPERTS,
            "shared_expert_intermediate_size": 24,
            **rope(2, 1, 1, mrope_interleaved=True, partial_rotary_factor=0.5),
        },
        PLAIN,
        "linear attention in 2 of 3 layers, mixture of experts",
        kinds="rrfrrf",
        stages=(2,),
    ),
    _omni(
        "qwen2_5_omni_thinker",
        "Qwen2_5OmniThinker",
        NARROW,
        {**OUT, "window_size": 24, "fullatt_block_indexes": [1]},
    ),
    _omni(
        "qwen3_omni_moe_thinker",
        "Qwen3OmniMoeThinker",
        {**EXPERTS, **rope(4, 2, 2, mrope_interleaved=True)},
        STACKED,
        "deepstack, mixture of experts",
    ),
)
