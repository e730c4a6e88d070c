"""Whole processors of families whose prompts the test matrix makes by hand: the newer ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import base, gemma4_like, liquid_like, minicpm_like, muse_like, newest, others, patch_towers

HALF: dict[str, Any] = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
AREA = {"shortest_edge": 500, "longest_edge": 10000}  # in pixels: pictures keep theirs, to a multiple of 12


def _grid(patch: int, temporal: int = 2) -> dict[str, Any]:
    """Of image and video processors that cut pictures as Qwen's do."""
    return {"patch_size": patch, "temporal_patch_size": temporal, "merge_size": 2, "size": AREA, **HALF}


def gemma4(kind: str) -> Any:
    import transformers

    sizes = {"patch_size": gemma4_like.PATCH, "pooling_kernel_size": gemma4_like.POOL, "max_soft_tokens": 70}
    tokens = {**gemma4_like.TOKENS, "audio_token": "<audio>", "boa_token": "<boa>", "eoa_token": "<eoa>"}
    return getattr(transformers, f"{kind}Processor")(
        feature_extractor=getattr(transformers, f"{kind}AudioFeatureExtractor")(),
        image_processor=getattr(transformers, f"{kind}ImageProcessor")(**sizes),
        video_processor=getattr(transformers, f"{kind}VideoProcessor")(**sizes),
        tokenizer=base.tokenizer(**tokens),
        image_seq_length=70,
    )


def compass() -> Any:
    import transformers as t

    tokens = {
        "image_token": "<|IMAGE_PAD|>",
        "video_token": "<|VIDEO_PAD|>",
        "vision_start_token": "<|VISION_START|>",
        "vision_end_token": "<|VISION_END|>",
    }
    sizes = _grid(patch_towers.SQUARE)
    return t.CohereCompassProcessor(
        image_processor=t.CohereCompassImageProcessor(**sizes),
        video_processor=t.CohereCompassVideoProcessor(**sizes),
        tokenizer=base.tokenizer(**tokens),
    )


def clova() -> Any:
    import transformers as t

    sizes = _grid(patch_towers.SQUARE)
    return t.HyperCLOVAXVisionV2Processor(
        image_processor=t.Qwen2VLImageProcessor(**sizes),
        video_processor=t.Qwen2VLVideoProcessor(**sizes),
        tokenizer=base.tokenizer(
            "<image>", "<video>", "<start>", "<end>", image_token="<image>", video_token="<video>"
        ),
    )


def cosmos() -> Any:
    import transformers as t

    sizes = _grid(newest.PATCH, temporal=1)
    return t.Cosmos3EdgeProcessor(
        image_processor=t.Cosmos3EdgeImageProcessor(**sizes),
        video_processor=t.Cosmos3EdgeVideoProcessor(**sizes),
        tokenizer=base.tokenizer(**newest.TOKENS),
    )


def kimi() -> Any:
    import transformers as t

    sizes: dict[str, Any] = {"patch_size": newest.PATCH, "merge_size": 2, "max_patches": 256, **HALF}
    return t.Kimi_K25Processor(
        image_processor=t.Kimi_K25ImageProcessor(**sizes),
        video_processor=t.Kimi_K25VideoProcessor(**sizes),
        tokenizer=base.tokenizer(**newest.TOKENS),
    )


def lfm3() -> Any:
    import transformers as t

    sizes = _grid(liquid_like.PATCH)
    tokens = {k if k.endswith("token") else f"vision_{k}_token": v for k, v in liquid_like.TOKENS.items()}
    return t.Lfm3VlProcessor(
        image_processor=t.Qwen2VLImageProcessor(**sizes),
        video_processor=t.Qwen3VLVideoProcessor(**sizes),
        tokenizer=base.tokenizer(**tokens),
    )


def llama4() -> Any:
    import transformers as t

    side = {"height": others.LLAMA_SIDE, "width": others.LLAMA_SIDE}
    return t.Llama4Processor(
        image_processor=t.Llama4ImageProcessor(size=side, max_patches=4),
        tokenizer=base.tokenizer(*others.LLAMA_MARKS),
        patch_size=others.LLAMA_PATCH,
    )


def minicpm(kind: str, merge: int) -> Any:
    import transformers

    shared = "V4_6" if kind == "V4_7" else kind
    sizes = {
        "patch_size": minicpm_like.CELL // merge,
        "scale_resolution": 48,
        "max_slice_nums": 2,
        "use_image_id": False,
    }
    parts = [
        getattr(transformers, f"MiniCPM{shared}{name}")(**sizes)
        for name in ("ImageProcessor", "VideoProcessor")
    ]
    tokens = {**minicpm_like.TOKENS, "image_id_start_token": "<id>", "image_id_end_token": "</id>"}
    return getattr(transformers, f"MiniCPM{kind}Processor")(*parts, base.tokenizer(**tokens))


def minimax() -> Any:
    import transformers as t

    sizes = {
        "patch_size": 4,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "min_pixels": 64,
        "max_pixels": 4096,
        **HALF,
    }
    named = t.MiniMaxM3VLProcessor
    return named(
        image_processor=t.MiniMaxM3VLImageProcessor(**sizes),
        video_processor=t.MiniMaxM3VLVideoProcessor(**sizes),
        tokenizer=base.tokenizer(
            image_token=named.IMAGE_TOKEN,
            boi_token=named.VISION_START_TOKEN,
            eoi_token=named.VISION_END_TOKEN,
            video_token=named.VIDEO_TOKEN,
        ),
    )


def molmo2() -> Any:
    import transformers as t

    side = {"height": others.MOLMO_SIDE, "width": others.MOLMO_SIDE}
    sizes: dict[str, Any] = {"size": side, "patch_size": others.MOLMO_PATCH, "pooling_size": [2, 2]}
    return t.Molmo2Processor(
        image_processor=t.Molmo2ImageProcessor(**sizes, max_crops=1, overlap_margins=[1, 1]),
        video_processor=t.Molmo2VideoProcessor(**sizes),
        tokenizer=base.tokenizer(*others.MOLMO_MARKS, "<|image|>", "<|video|>"),
    )


def muse(kind: str) -> Any:
    import transformers as t

    sizes = {"patch_size": muse_like.PATCH, "temporal_patch_size": 2, "merge_size": 2, **HALF}
    parts: dict[str, Any] = {
        "image_processor": t.MuseGlimmerImageProcessor(**sizes, max_image_tokens=64),
        "video_processor": t.MuseGlimmerVideoProcessor(**sizes),
        "tokenizer": base.tokenizer(*muse_like.MARKS, **muse_like.TOKENS, audio_token="<|audio|>"),
    }
    if kind == "MuseSpark":
        parts["feature_extractor"] = t.MuseSparkFeatureExtractor()
    return getattr(t, f"{kind}Processor")(**parts)


def nemotron() -> Any:
    import transformers as t

    name = "NemotronH_Omni_Reasoning_V3"
    images = getattr(t, f"{name}ImageProcessor")(patch_size=4, min_num_patches=16, max_num_patches=144)
    return getattr(t, f"{name}Processor")(
        image_processor=images,
        video_processor=getattr(t, f"{name}VideoProcessor")(patch_size=4, video_target_num_patches=64),
        feature_extractor=t.ParakeetFeatureExtractor(),
        tokenizer=base.tokenizer(
            image_token="<image>",
            image_start_token="<begin>",
            image_end_token="<end>",
            video_token="<video>",
        ),
    )


def step() -> Any:
    import transformers as t

    side = {"height": others.STEP_SIDE, "width": others.STEP_SIDE}
    images = t.Step3p7ImageProcessor(size=side, patch_size=others.STEP_SIDE // 2, max_image_size=128)
    images.vision_patch_size = others.STEP_PATCH
    return t.Step3p7Processor(image_processor=images, tokenizer=base.tokenizer(*others.STEP_MARKS))


def emu3() -> Any:
    import transformers as t

    return t.Emu3Processor(
        image_processor=t.Emu3ImageProcessor(min_pixels=1600, max_pixels=1600, spatial_factor=8),
        tokenizer=base.tokenizer(
            image_token="<image>",
            boi_token="<begin>",
            eoi_token="<end>",
            video_token="<video>",
            image_wrapper_token="<wrap>",
            eof_token="<eof>",
        ),
    )


BY_HAND: dict[str, Callable[[], Any]] = {
    "gemma4": lambda: gemma4("Gemma4"),
    "gemma4-moe": lambda: gemma4("Gemma4"),
    "gemma4_unified": lambda: gemma4("Gemma4Unified"),
    "cohere_compass": compass,
    "hyperclovax_vision_v2": clova,
    "cosmos3_edge": cosmos,
    "kimi_k25": kimi,
    "lfm3_vl": lfm3,
    "llama4": llama4,
    "minicpmv4_6": lambda: minicpm("V4_6", 4),
    "minicpmv4_7": lambda: minicpm("V4_7", 4),
    "minicpm_ocr": lambda: minicpm("Ocr", 2),
    "minimax_m3_vl": minimax,
    "molmo2": molmo2,
    "muse_glimmer": lambda: muse("MuseGlimmer"),
    "muse_spark": lambda: muse("MuseSpark"),
    "nemotron_h_omni": nemotron,
    "step3p7": step,
    "emu3": emu3,
}
