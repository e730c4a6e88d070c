"""Liquid's models: short convolutions between the attention layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from . import base, by_hand
from .base import Family, Sample

PATCH = 6
CELL = 2 * PATCH
MOST = 36 * 4  # patches of a picture
WINDOW = 20
VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
TOKENS = {"image_token": "<image>", "video_token": "<video>", "start": "<start>", "end": "<end>"}


def _words() -> Any:
    return base.tokenizer(**TOKENS)


def _finished(model: Any) -> Any:
    return base.finish(model, *_words().convert_tokens_to_ids([*TOKENS.values()]))


def _lfm2(attention: str) -> Any:
    from transformers import Lfm2Config, Lfm2VlConfig, Lfm2VlForConditionalGeneration, Siglip2VisionConfig

    base.seed()
    text = {k: v for k, v in by_hand.DEEP.items() if k != "head_dim"}
    config = Lfm2VlConfig(
        text_config=Lfm2Config(**text, layer_types=by_hand.alternating("conv")),
        vision_config=Siglip2VisionConfig(**VISION, patch_size=PATCH, num_patches=36, vision_use_head=False),
        image_token_id=_words().image_token_id,
        projector_hidden_size=32,
        downsample_factor=2,
        attn_implementation=attention,
    )
    return _finished(Lfm2VlForConditionalGeneration(config))


def _lfm2_prompts(samples: Sequence[Sample]) -> dict[str, Any]:
    out = by_hand.words(
        _words(), samples, lambda image: f"<start>{'<image>' * by_hand.tokens(image, CELL)}<end>"
    )
    found = [by_hand.whole(image, CELL) for sample in samples for image in sample.images]
    if found:
        cut = [by_hand.patches(values, PATCH) for values in found]
        pad = torch.nn.functional.pad
        out["pixel_values"] = torch.stack([pad(c, (0, 0, 0, MOST - len(c))) for c in cut])
        out["pixel_attention_mask"] = (torch.arange(MOST) < torch.tensor([[len(c)] for c in cut])).long()
        out["spatial_shapes"] = torch.tensor([[v.shape[1] // PATCH, v.shape[2] // PATCH] for v in found])
    return out


def _lfm3(attention: str) -> Any:
    from transformers import Lfm3Config, Lfm3VlConfig, Lfm3VlForConditionalGeneration
    from transformers.models.lfm3_vl.configuration_lfm3_vl import Lfm3VlVisionConfig

    base.seed()
    words = _words()
    config = Lfm3VlConfig(
        text_config=Lfm3Config(
            **by_hand.DEEP,
            layer_types=by_hand.alternating("conv", "sliding_attention"),
            sliding_window=WINDOW,
            conv_L_cache=4,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        ),
        vision_config=Lfm3VlVisionConfig(
            **VISION,
            num_key_value_heads=1,
            layer_types=["conv", "full_attention"],
            patch_size=PATCH,
            initializer_range=0.3,
        ),
        image_token_id=words.image_token_id,
        video_token_id=words.video_token_id,
        vision_start_token_id=words.convert_tokens_to_ids("<start>"),
        vision_end_token_id=words.convert_tokens_to_ids("<end>"),
        projector_hidden_size=32,
        attn_implementation=attention,
    )
    return _finished(Lfm3VlForConditionalGeneration(config))


def _lfm3_prompts(samples: Sequence[Sample]) -> dict[str, Any]:
    def picture(image: Any, token: str = "<image>") -> str:
        return f"<start>{token * by_hand.tokens(image, CELL)}<end>"

    def clip(frames: Any) -> str:
        return " ".join(picture(frame, "<video>") for frame in frames[::2])

    return by_hand.words(_words(), samples, picture, clip) | by_hand.grids(samples, PATCH)


# Their image and video processors need torchvision.
FAMILIES = (
    Family(
        "lfm2_vl",
        _lfm2,
        _lfm2_prompts,
        inputs="tensors",
        decoder="convolution in every second layer",
        kinds="rfrfrfrf",
    ),
    Family(
        "lfm3_vl",
        _lfm3,
        _lfm3_prompts,
        visual="image, video",
        inputs="tensors",
        decoder="sliding window, convolution in every fourth layer",
        visual_ids=(4, 5),
        kinds="rfwfrfwf",
    ),
)
