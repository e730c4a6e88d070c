"""Kimi and Cosmos 3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import base, by_hand, qwen_like
from .base import Family, Sample
from .grids import rope

PATCH = 6
CELL = 2 * PATCH
TOKENS = {
    "image_token": "<image>",
    "video_token": "<video>",
    "vision_start_token": "<start>",
    "vision_end_token": "<end>",
}
TOWER = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


def _finished(stem: str, text: Any, vision: dict[str, Any], attention: str, **more: Any) -> Any:
    import transformers

    base.seed()
    words = base.tokenizer(**TOKENS)
    ids = {f"{name}_id": words.convert_tokens_to_ids(word) for name, word in TOKENS.items()}
    config = getattr(transformers, f"{stem}Config")(
        text_config=text, vision_config=vision, **ids, **more, attn_implementation=attention
    )
    return base.finish(getattr(transformers, f"{stem}ForConditionalGeneration")(config), *ids.values())


# -- Kimi: DeepSeek's decoder (its clips, pooled over time, are split in transformers 5.23 as if they were not) ------


def _kimi(attention: str) -> Any:
    from transformers import DeepseekV3Config

    text = {k: v for k, v in base.TEXT.items() if k != "head_dim"} | {"num_key_value_heads": 4}
    decoder = DeepseekV3Config(
        **text,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=12,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_shared_experts=1,
        moe_intermediate_size=24,
        first_k_dense_replace=1,
        n_group=1,
        topk_group=1,
    )
    vision = TOWER | {"patch_size": PATCH, "pos_emb_height": 8, "pos_emb_width": 8, "pos_emb_time": 4}
    return _finished("Kimi_K25", decoder, vision, attention, projection_hidden_size=16)


def _kimi_prompts(samples: Sequence[Sample]) -> dict[str, Any]:
    out = by_hand.words(
        base.tokenizer(**TOKENS),
        samples,
        lambda image: f"<start>{'<image>' * by_hand.tokens(image, CELL)}<end>",
    )
    found = [by_hand.whole(i, CELL)[None] for s in samples for i in s.images]
    if found:
        out["pixel_values"] = torch.cat([_squares(f) for f in found])
        out["image_grid_thw"] = torch.tensor([[1, f.shape[2] // PATCH, f.shape[3] // PATCH] for f in found])
    return out


def _squares(frames: Tensor) -> Tensor:
    """Patches [n, 3, side, side] of frames [t, 3, height, width], row by row."""
    cut = frames.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)
    return cut.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)


# -- Cosmos 3 Edge: a frame is a picture -----------------------------------------------------------------------


def _edge(attention: str) -> Any:
    text = base.TEXT | rope(4, 2, 2)
    vision = TOWER | {"patch_size": PATCH, "num_patches": 36, "spatial_merge_size": 2}
    return _finished("Cosmos3Edge", text, vision, attention, projector_hidden_size=32)


def _edge_prompts(samples: Sequence[Sample]) -> dict[str, Any]:
    def picture(image: Any, word: str = "<image>") -> str:
        return f"<start>{word * by_hand.tokens(image, CELL)}<end>"

    words = base.tokenizer(**TOKENS)
    out = by_hand.words(
        words, samples, picture, lambda clip: " ".join(picture(frame, "<video>") for frame in clip)
    )
    out["mm_token_type_ids"] = by_hand.kinds(out["input_ids"], words.image_token_id, words.video_token_id)
    stills = [by_hand.whole(i, CELL)[None] for s in samples for i in s.images]
    clips = [torch.stack([by_hand.whole(f, CELL) for f in c]) for s in samples for c in s.videos]
    for found, values, grid in (
        (stills, "pixel_values", "image_grid_thw"),
        (clips, "pixel_values_videos", "video_grid_thw"),
    ):
        if found:
            cut, shapes = zip(*(by_hand.merged_patches(f, PATCH, temporal=1) for f in found), strict=True)
            out[values], out[grid] = torch.cat(cut), torch.tensor(shapes)
    return out


# Their image and video processors need torchvision; Cosmos 3 Omni's processor is that of Qwen3-VL.
FAMILIES = (
    Family(
        "kimi_k25",
        _kimi,
        _kimi_prompts,
        inputs="tensors",
        decoder="latent attention, mixture of experts",
        visual_ids=(4, 5),
    ),
    Family("cosmos3_edge", _edge, _edge_prompts, visual="image, video", inputs="tensors", visual_ids=(4, 5)),
    qwen_like.family(
        "cosmos3_omni",
        "Cosmos3Omni",
        "Qwen3VLProcessor",
        rope(4, 2, 2, mrope_interleaved=True),
        qwen_like.STACKED,
        "deepstack",
    ),
)
