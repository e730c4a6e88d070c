"""LLaVA and its kin: a vision tower, a projector, a stock decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from . import base
from .base import Family, Sample

SIDE, PATCH = 48, 8  # 36 visual tokens
CLIP = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": PATCH,
    "projection_dim": 16,
}


def _llava(attention: str) -> Any:
    base.seed()
    image = base.tokenizer("<image>").convert_tokens_to_ids("<image>")
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**CLIP),
        text_config=LlamaConfig(**base.TEXT),
        image_token_index=image,
        vision_feature_layer=-1,
        image_seq_length=(SIDE // PATCH) ** 2,
        attn_implementation=attention,
    )
    return base.finish(LlavaForConditionalGeneration(config), image)


def _llava_prompts(samples: Sequence[Sample]) -> dict[str, Any]:
    size = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(**size),
        tokenizer=base.tokenizer("<image>"),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    pictures = [image for sample in samples for image in sample.images]
    return dict(
        processor(text=[s.text for s in samples], images=pictures or None, padding=True, return_tensors="pt")
    )


FAMILIES = (Family("llava", _llava, _llava_prompts),)
