"""Gemma's vision-language models: sliding windows, pictures that see themselves in both directions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from . import base, by_hand
from .base import Family, Sample

SIDE, PATCH = 60, 6
SIGLIP = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": PATCH,
    "vision_use_head": False,
}
WINDOW = 20
GEMMA_TOKENS = {"image_token": "<soft>", "boi_token": "<boi>", "eoi_token": "<eoi>"}


def _nested(samples: Sequence[Sample]) -> list[list[Any]] | None:
    """Pictures sample by sample, as these processors want them; None if there are none at all."""
    return [list(s.images) for s in samples] if any(s.images for s in samples) else None


def _gemma3(whole: str, attention: str) -> Any:
    """`whole`: the name of its config."""
    import transformers
    from transformers import Gemma3ForConditionalGeneration, Gemma3TextConfig, SiglipVisionConfig

    base.seed()
    words = base.tokenizer(**GEMMA_TOKENS)
    config = getattr(transformers, whole)(
        text_config=Gemma3TextConfig(
            **by_hand.DEEP,
            layer_types=by_hand.alternating("sliding_attention"),
            sliding_window=WINDOW,
            query_pre_attn_scalar=16,
        ),
        vision_config=SiglipVisionConfig(**SIGLIP),
        mm_tokens_per_image=25,
        boi_token_index=words.boi_token_id,
        eoi_token_index=words.eoi_token_id,
        image_token_index=words.image_token_id,
        attn_implementation=attention,
    )
    model = Gemma3ForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight)  # zeros otherwise
    return base.finish(model, words.boi_token_id, words.eoi_token_id, words.image_token_id)


def _gemma3_prompts(samples: Sequence[Sample]) -> dict[str, Any]:
    from transformers import Gemma3Processor
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    processor = Gemma3Processor(
        image_processor=Gemma3ImageProcessorPil(size={"height": SIDE, "width": SIDE}),
        tokenizer=base.tokenizer(**GEMMA_TOKENS),
        image_seq_length=25,
    )
    texts = [s.text.replace("<image>", "<boi>") for s in samples]
    return dict(processor(text=texts, images=_nested(samples), padding=True, return_tensors="pt"))


def _paligemma(second: bool) -> Any:
    def build(attention: str) -> Any:
        from transformers import (
            Gemma2Config,
            GemmaConfig,
            PaliGemmaConfig,
            PaliGemmaForConditionalGeneration,
            SiglipVisionConfig,
        )

        base.seed()
        image = base.tokenizer(image_token="<image>").image_token_id
        if second:
            text = Gemma2Config(
                **by_hand.DEEP,
                layer_types=by_hand.alternating("sliding_attention"),
                sliding_window=WINDOW,
                query_pre_attn_scalar=16,
            )
        else:
            text = GemmaConfig(**base.TEXT)
        config = PaliGemmaConfig(
            text_config=text,
            vision_config=SiglipVisionConfig(**SIGLIP | {"patch_size": 10}),
            image_token_index=image,
            projection_dim=base.TEXT["hidden_size"],
            hidden_size=base.TEXT["hidden_size"],
            attn_implementation="eager" if second else attention,  # Gemma 2 refuses sdpa
        )
        return base.finish(PaliGemmaForConditionalGeneration(config), image)

    return build


def _paligemma_prompts(samples: Sequence[Sample]) -> dict[str, Any]:
    from transformers import PaliGemmaProcessor
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    images = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    images.image_seq_length = (SIDE // 10) ** 2
    processor = PaliGemmaProcessor(image_processor=images, tokenizer=base.tokenizer(image_token="<image>"))
    # It does not take text alone: a sample with a picture is added and cut off again.
    pictures = [image for sample in samples for image in sample.images]
    out = processor(
        text=[*(s.text for s in samples), "<image>"],
        images=[*pictures, base.picture(0)],
        padding=True,
        return_tensors="pt",
    )
    used = out["attention_mask"][:-1].any(0)
    rows = {k: out[k][:-1, used] for k in ("input_ids", "attention_mask", "token_type_ids")}
    return rows | ({"pixel_values": out["pixel_values"][:-1]} if pictures else {})


FAMILIES = (
    Family(
        "gemma3",
        partial(_gemma3, "Gemma3Config"),
        _gemma3_prompts,
        decoder="sliding window, bidirectional pictures",
        kinds="wfwfwfwf",
    ),
    Family(
        "shieldgemma2",
        partial(_gemma3, "ShieldGemma2Config"),
        _gemma3_prompts,
        decoder="sliding window, bidirectional pictures",
        kinds="wfwfwfwf",
    ),
    Family("paligemma", _paligemma(False), _paligemma_prompts, decoder="bidirectional prompt"),
    Family(
        "paligemma-2",
        _paligemma(True),
        _paligemma_prompts,
        decoder="sliding window, bidirectional prompt",
        kinds="wfwfwfwf",
    ),
)
