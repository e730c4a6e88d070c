"""Gemma 4: per-layer inputs, keys shared by the last layers, wider heads in full-attention layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from . import base, by_hand
from .base import Family, Sample
from .gemma_like import WINDOW

PATCH, POOL = 4, 3
CELL = PATCH * POOL  # pixels a visual token covers, across
MOST = 36  # visual tokens of a picture or frame
TOKENS = {"image_token": "<image>", "video_token": "<video>", "boi_token": "<boi>", "eoi_token": "<eoi>"}
SLIDING = by_hand.alternating("sliding_attention")
TEXT = by_hand.DEEP | {"layer_types": SLIDING, "sliding_window": WINDOW, "global_head_dim": 32}
SHARING = {  # as in E2B
    # Nothing goes from where the shared keys are made: layers 1 to 3 are left.
    "num_hidden_layers": 10,
    "layer_types": [SLIDING[0], "full_attention", "full_attention", "full_attention", *SLIDING[:6]],
    "num_kv_shared_layers": 4,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 64,
    "use_double_wide_mlp": True,
}
EXPERTS = {  # as in 26B-A4B
    "hidden_size_per_layer_input": 0,
    "use_bidirectional_attention": "vision",
    "attention_k_eq_v": True,
    "num_global_key_value_heads": 1,
    "enable_moe_block": True,
    "num_experts": 4,
    "top_k_experts": 2,
    "moe_intermediate_size": 16,
}


def _gemma4(**particular: Any) -> Any:
    def build(attention: str) -> Any:
        from transformers import (
            Gemma4Config,
            Gemma4ForConditionalGeneration,
            Gemma4TextConfig,
            Gemma4VisionConfig,
        )

        vision = Gemma4VisionConfig(
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=8,
            patch_size=PATCH,
            pooling_kernel_size=POOL,
            position_embedding_size=64,
            initializer_range=0.3,
        )
        text = Gemma4TextConfig(**TEXT | particular)
        return _finish(Gemma4Config, Gemma4ForConditionalGeneration, text, vision, attention)

    return build


def _unified(attention: str) -> Any:
    from transformers import Gemma4UnifiedConfig, Gemma4UnifiedForConditionalGeneration
    from transformers.models.gemma4_unified.configuration_gemma4_unified import (
        Gemma4UnifiedTextConfig,
        Gemma4UnifiedVisionConfig,
    )

    vision = Gemma4UnifiedVisionConfig(
        patch_size=PATCH,
        pooling_kernel_size=POOL,
        mm_embed_dim=16,
        mm_posemb_size=64,
        output_proj_dims=16,
        initializer_range=0.3,
    )
    text = Gemma4UnifiedTextConfig(**TEXT, attention_k_eq_v=True, num_global_key_value_heads=1)
    return _finish(Gemma4UnifiedConfig, Gemma4UnifiedForConditionalGeneration, text, vision, attention)


def _finish(config: Any, model: Any, text: Any, vision: Any, attention: str) -> Any:
    base.seed()
    words = base.tokenizer(**TOKENS)
    whole = config(
        text_config=text,
        vision_config=vision,
        audio_config=None,
        image_token_id=words.image_token_id,
        video_token_id=words.video_token_id,
        boi_token_id=words.boi_token_id,
        eoi_token_id=words.eoi_token_id,
        initializer_range=0.3,
        attn_implementation=attention,
    )
    silent = words.convert_tokens_to_ids([*TOKENS.values()])
    return base.finish(model(whole), *silent)


def _prompts(patch: int) -> Any:
    """For patches of that many pixels across, of which as many as cover a cell become a token."""

    def prompts(samples: Sequence[Sample]) -> dict[str, Any]:
        words = base.tokenizer(**TOKENS)
        out = by_hand.words(
            words,
            samples,
            lambda image: f"<boi>{'<image>' * by_hand.tokens(image, CELL)}<eoi>",
            lambda clip: " ".join(f"<boi>{'<video>' * by_hand.tokens(f, CELL)}<eoi>" for f in clip),
        )
        out["mm_token_type_ids"] = by_hand.kinds(out["input_ids"], words.image_token_id, words.video_token_id)
        clips = [clip for sample in samples for clip in sample.videos]
        pictures = [image for sample in samples for image in sample.images]
        if pictures:
            out["pixel_values"], out["image_position_ids"] = _padded(pictures, patch)
        if clips:
            every = [frame for clip in clips for frame in clip]
            out["pixel_values_videos"], out["video_position_ids"] = _padded(every, patch)
            if base.takes("Gemma4ForConditionalGeneration", "num_frames_per_video"):
                out["num_frames_per_video"] = torch.tensor([len(clip) for clip in clips])
            elif patch == PATCH:  # older ones take clips of equal length
                for key, fill in (("pixel_values_videos", 0.0), ("video_position_ids", -1)):
                    each = out[key].split([len(clip) for clip in clips])
                    out[key] = torch.nn.utils.rnn.pad_sequence(each, batch_first=True, padding_value=fill)
        return out

    return prompts


def _padded(pictures: Sequence[Image.Image | np.ndarray], patch: int) -> tuple[Tensor, Tensor]:
    most = MOST * (CELL // patch) ** 2
    cut = [_cut(p, patch) for p in pictures]
    pad = torch.nn.functional.pad
    values = [pad(v, (0, 0, 0, most - len(v))) for v, _ in cut]
    places = [pad(p, (0, 0, 0, most - len(p)), value=-1) for _, p in cut]
    return torch.stack(values), torch.stack(places)


def _cut(picture: Image.Image | np.ndarray, patch: int) -> tuple[Tensor, Tensor]:
    """Patches between 0 and 1, and their columns and rows."""
    values = by_hand.whole(picture, CELL) / 2 + 0.5
    rows, columns = values.shape[1] // patch, values.shape[2] // patch
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).flip(1)
    return by_hand.patches(values, patch), places


# Their video processor, which their processor insists on, needs torchvision; so does all of the unified one's.
FAMILIES = (
    Family(
        "gemma4",
        _gemma4(**SHARING),
        _prompts(PATCH),
        visual="image, video",
        inputs="tensors",
        decoder="sliding window, keys shared by the last layers, per-layer inputs",
        visual_ids=(4, 5),
        kinds="wfffwfwfwf",
    ),
    Family(
        "gemma4-moe",
        _gemma4(**EXPERTS),
        _prompts(PATCH),
        visual="image, video",
        inputs="tensors",
        decoder="sliding window, mixture of experts, bidirectional pictures",
        visual_ids=(4, 5),
        kinds="wfwfwfwf",
    ),
    Family(
        "gemma4_unified",
        _unified,
        _prompts(CELL),
        visual="image, video",
        inputs="tensors",
        decoder="sliding window, bidirectional pictures",
        visual_ids=(4, 5),
        kinds="wfwfwfwf",
    ),
)
