"""Mixtures of experts: two OCR models, which read a page and its tiles, and Inkling, which has convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image
from torch import nn

from . import base
from .base import Family, Sample
from .rest import expanded, pictures, silent, words

HIDDEN = base.TEXT["hidden_size"]
VISION = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SIDE, TILE = 64, 4  # of an OCR picture, in pixels and in tokens
LAYERS = 8  # of Inkling: three full ones that are not the last


def cells(image: Image.Image, cell: int = 8) -> tuple[int, int]:
    """How many visual tokens a picture has, down and across, at three quarters of its size."""
    width, height = image.size
    return round(0.75 * height / cell), round(0.75 * width / cell)


# -- OCR: a SAM, another encoder over it; a picture and its tiles ---------------------------------------------


def _sam() -> dict[str, Any]:
    return {
        **VISION,
        "output_channels": 8,
        "image_size": SIDE,
        "patch_size": 4,  # and four times fewer after it
        "window_size": 4,
        "global_attn_indexes": [0],
        "mlp_dim": 24,
        "downsample_channels": [8, 16],
        "initializer_range": 0.3,
    }


def experts(**more: Any) -> dict[str, Any]:
    text = {key: value for key, value in base.TEXT.items() if key != "head_dim"}
    return text | {
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
        "moe_intermediate_size": 24,
        "mlp_layer_types": ["dense"] + ["sparse"] * (base.LAYERS - 1),
        **more,
    }


def _deepseek_ocr2(attention: str) -> Any:
    from transformers import DeepseekOcr2Config, DeepseekOcr2ForConditionalGeneration

    base.seed()
    image, *around = silent()
    encoder = {**VISION, "intermediate_size": 24, "num_key_value_heads": 2, "vocab_size": 8}
    encoder["initializer_range"] = 0.3
    config = DeepseekOcr2Config(
        vision_config={"sam_config": _sam(), "encoder_config": encoder},
        text_config=experts(),
        image_token_id=image,
        attn_implementation=attention,
    )
    model = DeepseekOcr2ForConditionalGeneration(config)
    # The number of queries, which is that of a tile's tokens, is no part of the config.
    model.model.vision_tower.query_768_resolution = nn.Embedding(TILE**2, VISION["hidden_size"])
    return base.finish(model, image, *around)


def _deepseek_ocr2_prompts(samples: Sequence[Sample]) -> dict[str, Any]:
    from transformers import DeepseekOcr2Processor
    from transformers.models.deepseek_ocr2.image_processing_pil_deepseek_ocr2 import (
        DeepseekOcr2ImageProcessorPil,
    )

    processor = DeepseekOcr2Processor(
        DeepseekOcr2ImageProcessorPil(size={"height": SIDE, "width": SIDE}, tile_size=SIDE),
        words(),
        patch_size=4,
        downsample_ratio=4,
    )
    text, images = [sample.text for sample in samples], pictures(samples) or None
    if not images:  # older processors insist on pictures
        return expanded(samples, [])
    return dict(processor(text=text, images=images, max_patches=2, padding=True, return_tensors="pt"))


def unlimited_ocr(attention: str) -> Any:
    from transformers import UnlimitedOcrConfig, UnlimitedOcrForConditionalGeneration

    base.seed()
    image, *around = silent()
    encoder = {**VISION, "intermediate_size": 24, "image_size": SIDE, "patch_size": SIDE // TILE}
    config = UnlimitedOcrConfig(
        vision_config={"sam_config": _sam(), "encoder_config": encoder},
        # The window is over what is generated. Its eager attention needs as many heads of keys as of queries.
        text_config=experts(sliding_window=2, num_key_value_heads=4),
        image_token_id=image,
        attn_implementation=attention,
    )
    return base.finish(UnlimitedOcrForConditionalGeneration(config), image, *around)


# -- Inkling: short convolutions, positions relative to the query ---------------------------------------------


def _inkling_text(**more: Any) -> dict[str, Any]:
    text = {key: value for key, value in base.TEXT.items() if key != "intermediate_size"}
    return text | {
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 2,
        "swa_head_dim": 8,
        "sliding_window_size": 16,
        "d_rel": 4,
        "rel_extent": 64,
        "num_hidden_layers": LAYERS,
        "layer_types": ["hybrid_sliding", "hybrid"] * (LAYERS // 2),
        "moe_intermediate_size": 24,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "route_scale": 1.0,
        "pad_token_id": 0,
        **more,
    }


def inkling(attention: str) -> Any:
    from transformers import InklingConfig, InklingForConditionalGeneration

    base.seed()
    image, *around = silent()
    config = InklingConfig(
        text_config=_inkling_text(
            intermediate_size=48,
            mlp_layer_types=["dense"] + ["sparse"] * (LAYERS - 1),
            n_shared_experts=1,
            logits_mup_width_multiplier=1.0,
        ),
        vision_config={
            "patch_size": 4,
            "temporal_patch_size": 2,
            "num_hidden_layers": 4,
            "initializer_range": 0.3,
        },
        audio_config={"n_mel_bins": 2, "mel_vocab_size": 4},
        image_token_id=image,
        audio_token_id=63,
        image_bos_token_id=around[0],
        attn_implementation=attention,
    )
    return base.finish(InklingForConditionalGeneration(config), image, *around)


def inkling2(attention: str) -> Any:
    return _inkling2("Inkling2")


def inkling2_loop(attention: str) -> Any:
    """Layers 3 to 5 run twice."""
    return _inkling2(
        "Inkling2Loop",
        loop_layer_index_start=3,
        loop_layer_index_end=6,
        loop_num_passes=2,
        loop_gate_rank=4,
    )


def _inkling2(stem: str, **more: Any) -> Any:
    import transformers

    base.seed()
    image, *around = silent()
    config = getattr(transformers, f"{stem}Config")(
        text_config=_inkling_text(
            unpadded_vocab_size=base.TEXT["vocab_size"],
            n_layers_per_attn_res_block=3,
            log_scaling_n_floor=24,
            eos_token_id=2,
            **more,
        ),
        vision_config={
            **VISION,
            "patch_size": 4,
            "posemb_grid_size": 8,
            "projection_hidden_dim": 24,
            "text_hidden_size": HIDDEN,
            "initializer_range": 0.3,
        },
        image_token_id=image,
        attn_implementation="eager",  # it has no other that runs here
    )
    return base.finish(getattr(transformers, f"{stem}ForConditionalGeneration")(config), image, *around)


FAMILIES = (Family("deepseek_ocr2", _deepseek_ocr2, _deepseek_ocr2_prompts, decoder="mixture of experts"),)
