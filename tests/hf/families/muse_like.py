"""Muse Glimmer and Muse Spark: sliding windows, and full attention without positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import base, by_hand
from .base import Family, Sample

PATCH = 6
CELL = 2 * PATCH
MARKS = ("<|image_start|>", "<|image_end|>", "<|vid_start|>", "<|vid_end|>", "<|vid_frame_separator|>")
TOKENS = {"image_token": "<|patch|>", "video_token": "<|video|>"}
TEXT = by_hand.DEEP | {
    "layer_types": by_hand.alternating("sliding_attention"),
    "layer_rope_theta": [10000.0, 0] * 4,
    "sliding_window": 20,
    "pad_token_id": 0,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": PATCH,
    "pos_emb_height": 8,
    "pos_emb_width": 8,
}
EXPERTS = {
    "moe_intermediate_size": 16,
    "moe_hidden_size": 16,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
}


def _glimmer(attention: str) -> Any:
    from transformers import MuseGlimmerConfig, MuseGlimmerForConditionalGeneration
    from transformers.models.muse_glimmer.configuration_muse_glimmer import MuseGlimmerTextConfig

    text = MuseGlimmerTextConfig(**TEXT)
    return _finished(MuseGlimmerConfig, MuseGlimmerForConditionalGeneration, text, attention)


def _spark(attention: str) -> Any:
    from transformers import MuseSparkConfig, MuseSparkForConditionalGeneration
    from transformers.models.muse_spark.configuration_muse_spark import MuseSparkTextConfig

    ear = {
        "patch_sizes": [4, 2],
        "hidden_sizes": [8, 16],
        "depths": [1, 1],
        "num_hidden_layers": 2,
        "out_hidden_size": base.TEXT["hidden_size"],
    }
    text = MuseSparkTextConfig(**TEXT, **EXPERTS)
    return _finished(MuseSparkConfig, MuseSparkForConditionalGeneration, text, attention, audio_config=ear)


def _finished(config: Any, model: Any, text: Any, attention: str, **more: Any) -> Any:
    base.seed()
    words = base.tokenizer(*MARKS, **TOKENS)
    whole = config(
        text_config=text,
        vision_config=VISION,
        image_token_id=words.image_token_id,
        video_token_id=words.video_token_id,
        out_hidden_size=4 * VISION["hidden_size"],
        projector_hidden_size=32,
        attn_implementation=attention,
        **more,
    )
    return base.finish(model(whole), *words.convert_tokens_to_ids([*MARKS, *TOKENS.values()]))


def _prompts(samples: Sequence[Sample]) -> dict[str, Any]:
    def picture(image: Any) -> str:
        return f"<|image_start|>{'<|patch|>' * by_hand.tokens(image, CELL)}<|image_end|>"

    def clip(frames: Any) -> str:
        groups = ["<|video|>" * by_hand.tokens(frame, CELL) for frame in frames[::2]]
        return f"<|vid_start|>{'<|vid_frame_separator|>'.join(groups)}<|vid_end|>"

    words = base.tokenizer(*MARKS, **TOKENS)
    return by_hand.words(words, samples, picture, clip) | by_hand.grids(samples, PATCH)


# Their image and video processors need torchvision.
FAMILIES = (
    Family(
        "muse_glimmer",
        _glimmer,
        _prompts,
        visual="image, video",
        inputs="tensors",
        decoder="sliding window, layers without positions",
        visual_ids=(9, 10),
        kinds="wfwfwfwf",
    ),
    Family(
        "muse_spark",
        _spark,
        _prompts,
        visual="image, video",
        inputs="tensors",
        decoder="sliding window, layers without positions, mixture of experts",
        visual_ids=(9, 10),
        kinds="wfwfwfwf",
    ),
)
