"""Kin of LLaVA with other towers or decoders: Mistral 3, LightOn-OCR, Aria, Granite and others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from . import base
from .base import Family, Sample
from .llava_like import CLIP, GRIDS, SMALL, TOWER, clips, pixtral_prompts, processed, tiled_images, tokenized
from .llava_tiles import built, qwen, tiles

_PLAIN = partial(base.tokenizer, "<image>", "<video>")
EXPERTS = {
    "moe_intermediate_size": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
}
_BREAKS = partial(base.tokenizer, "<image>", "[BREAK]", "[END]")


# --- Pixtral's tower, whose patches are merged by twos ----------------------------------------------------------


def _pixtral() -> Any:
    from transformers import PixtralVisionConfig

    return PixtralVisionConfig(**{**TOWER, "patch_size": 4}, head_dim=8)


def _mistral3(text: Callable[[], Any]) -> Callable[[], dict[str, Any]]:
    def config() -> dict[str, Any]:
        image = _BREAKS().convert_tokens_to_ids("<image>")
        return {"vision_config": _pixtral(), "text_config": text(), "image_token_index": image}

    return config


def _scaled(**more: Any) -> dict[str, Any]:
    """Rotary positions as Mistral has them, whose queries grow from 16 tokens on."""
    long = {"factor": 16.0, "original_max_position_embeddings": 16, "max_position_embeddings": 256}
    return {"rope_type": "yarn", "rope_theta": 10000.0, **long, "llama_4_scaling_beta": 0.1, **more}


def _mistral() -> Any:
    from transformers import MistralConfig

    return MistralConfig(**base.TEXT, sliding_window=None)


def _ministral3() -> Any:
    from transformers import Ministral3Config

    return Ministral3Config(**base.TEXT, rope_parameters=_scaled(mscale=1.0, mscale_all_dim=1.0))


def _mistral4() -> Any:
    from transformers.models.mistral4.configuration_mistral4 import Mistral4Config

    latent = {
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
    }
    text = {**base.TEXT, "num_key_value_heads": 4}
    del text["head_dim"]
    rope = _scaled(mscale=1.0, mscale_all_dim=1.0, partial_rotary_factor=0.5)
    return Mistral4Config(**text, **latent, **EXPERTS, rope_parameters=rope)


def _large4() -> Any:
    from transformers.models.mistral_large4.configuration_mistral_large4 import MistralLarge4TextConfig

    latent = {"kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
    index = {"index_topk": 24, "index_head_dim": 16, "index_n_heads": 8}
    return MistralLarge4TextConfig(
        **{**base.TEXT, "num_key_value_heads": 4},
        **latent,
        **index,
        **EXPERTS,
        rope_parameters=_scaled(attention_factor=1.0),
        no_rope_layer_interval=3,
        indexer_types=["full", "full", "full", "shared", "full", "shared"],
        kv_source_layers=[0, 1, 2, 1, 1, 2],
    )


def _lighton() -> dict[str, Any]:
    from transformers import Qwen3Config

    image = _LIGHTON().convert_tokens_to_ids("<image>")
    return {"vision_config": _pixtral(), "text_config": Qwen3Config(**base.TEXT), "image_token_id": image}


_LIGHTON = partial(
    base.tokenizer, image_token="<image>", image_break_token="[BREAK]", image_end_token="[END]"
)


def _lighton_prompts(samples: Sequence[Sample]) -> dict[str, Any]:
    from transformers.models.lighton_ocr.processing_lighton_ocr import LightOnOcrProcessor
    from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

    images = PixtralImageProcessorPil(size={"longest_edge": 48}, patch_size={"height": 8, "width": 8})
    return processed(LightOnOcrProcessor(images, _LIGHTON(), patch_size=4, spatial_merge_size=2), samples)


# --- Aria -------------------------------------------------------------------------------------------------------

_ARIA = partial(base.tokenizer, image_token="<image>")


def _aria() -> dict[str, Any]:
    from transformers.models.aria.configuration_aria import AriaTextConfig
    from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig

    return {
        "vision_config": Idefics3VisionConfig(**{**TOWER, "image_size": 490, "patch_size": 70}),
        "text_config": AriaTextConfig(**base.TEXT, moe_num_experts=4, moe_topk=2, moe_num_shared_experts=1),
        "projector_patch_to_query_dict": {49: 16},
        "image_token_index": _ARIA().convert_tokens_to_ids("<image>"),
        "initializer_range": 0.3,
    }


def _aria_prompts(samples: Sequence[Sample]) -> dict[str, Any]:
    from transformers import AriaProcessor
    from transformers.models.aria.image_processing_pil_aria import AriaImageProcessorPil

    processor = AriaProcessor(AriaImageProcessorPil(), _ARIA(), size_conversion={490: 16})
    return processed(processor, samples, max_image_size=490)


# --- Granite ----------------------------------------------------------------------------------------------------


def _granite() -> dict[str, Any]:
    from transformers import Blip2QFormerConfig, CLIPVisionConfig
    from transformers.models.granite4_vision.configuration_granite4_vision import Granite4VisionTextConfig

    text = {k: v for k, v in base.TEXT.items() if k != "head_dim"} | {"num_hidden_layers": 8}
    return {
        "vision_config": CLIPVisionConfig(
            **{**CLIP, "image_size": SMALL, "patch_size": 4, "hidden_size": 64}
        ),
        "text_config": Granite4VisionTextConfig(**text, embedding_multiplier=2.0, attention_multiplier=0.35),
        "qformer_config": Blip2QFormerConfig(
            num_hidden_layers=1,
            intermediate_size=24,
            cross_attention_frequency=1,
            use_qformer_text_input=False,
            hidden_size=64,
            encoder_hidden_size=64,
            num_attention_heads=1,
        ),
        "image_token_index": _PLAIN().convert_tokens_to_ids("<image>"),
        "image_grid_pinpoints": GRIDS,
        "downsample_rate": "1/2",
        "deepstack_layer_map": [[-1, 0]],
        "spatial_target_layers": [1, 2, 3, 4],
    }


def _granite_prompts(samples: Sequence[Sample]) -> dict[str, Any]:
    from transformers.models.granite4_vision.processing_granite4_vision import Granite4VisionProcessor

    processor = Granite4VisionProcessor(
        image_processor=tiled_images("LlavaNext"),
        tokenizer=_PLAIN(),
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        downsample_rate="1/2",
    )
    return processed(processor, samples)


# --- Perception LM and FastVLM, whose towers are timm's ---------------------------------------------------------


def _perception() -> dict[str, Any]:
    from transformers import CLIPVisionConfig, LlamaConfig

    image, video = _PLAIN().convert_tokens_to_ids(["<image>", "<video>"])
    vision = CLIPVisionConfig(**{**CLIP, "image_size": SMALL, "patch_size": 4}, model_args={"embed_dim": 16})
    return {
        "vision_config": vision,
        "text_config": LlamaConfig(**base.TEXT),
        "projector_pooling_ratio": 2,
        "image_token_id": image,
        "video_token_id": video,
    }


def _perception_prompts(samples: Sequence[Sample]) -> dict[str, Any]:
    """One tile per picture, two frames per clip."""
    images = _squares(samples)
    moving = clips(samples, 2)
    made = {} if images is None else {"pixel_values": images[:, None]}
    if moving is not None:
        made["pixel_values_videos"] = moving.flatten(0, 1)[:, None]
    count = 0 if images is None else len(images)
    videos = ["<video>" * 32] * (0 if moving is None else len(moving))
    return {**tokenized(_PLAIN(), samples, ["<image>" * 16] * count, videos), **made}


def _fast() -> dict[str, Any]:
    from transformers import ResNetConfig

    vision = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", hidden_size=16
    )
    return {
        "vision_config": vision,
        "text_config": qwen(),
        "image_token_index": _PLAIN().convert_tokens_to_ids("<image>"),
    }


def _fast_prompts(samples: Sequence[Sample]) -> dict[str, Any]:
    images = _squares(samples)
    made = {} if images is None else {"pixel_values": images}
    words = ["<image>" * 16] * (0 if images is None else len(images))
    return {**tokenized(_PLAIN(), samples, words), **made}


def _squares(samples: Sequence[Sample]) -> torch.Tensor | None:
    """All pictures, squeezed to one size."""
    pictures = [image for sample in samples for image in sample.images]
    size = {"height": SMALL, "width": SMALL}
    return tiles(1)(pictures, size=size, return_tensors="pt")["pixel_values"] if pictures else None


_MISTRAL3: dict[str, Any] = {"words": _BREAKS(), "silent": "<image> [BREAK] [END]"}
_prompts3 = partial(pixtral_prompts, patch=8)
mistral_large4 = built("MistralLarge4", config=_mistral3(_large4), **_MISTRAL3)  # refused
FAMILIES = (
    # PixtralProcessor needs torchvision.
    Family(
        "mistral3", built("Mistral3", config=_mistral3(_mistral), **_MISTRAL3), _prompts3, inputs="tensors"
    ),
    Family(
        "mistral3-ministral3",
        built("Mistral3", config=_mistral3(_ministral3), **_MISTRAL3),
        _prompts3,
        inputs="tensors",
        decoder="queries scaled by position",
    ),
    Family(
        "mistral3-mistral4",
        built("Mistral3", config=_mistral3(_mistral4), **_MISTRAL3),
        _prompts3,
        inputs="tensors",
        decoder="latent attention, mixture of experts",
    ),
    Family(
        "lighton_ocr", built("LightOnOcr", _LIGHTON(), _lighton, "<image> [BREAK] [END]"), _lighton_prompts
    ),
    Family("aria", built("Aria", _ARIA(), _aria, "<image>"), _aria_prompts, decoder="mixture of experts"),
    Family(
        "granite4_vision",
        built("Granite4Vision", _PLAIN(), _granite, "<image> <video>"),
        _granite_prompts,
        decoder="deepstack in 5 of 8 layers",
        kinds="ffffffff",
    ),
    # Their towers are timm's, their image processors torchvision's: another tower, and tensors by hand.
    Family(
        "perception_lm",
        built("PerceptionLM", _PLAIN(), _perception, "<image> <video>"),
        _perception_prompts,
        visual="image, video",
        inputs="tensors",
        visual_ids=(4, 5),
    ),
    Family(
        "fast_vlm",
        built("FastVlm", _PLAIN(), _fast, "<image>", decoder_only=True),
        _fast_prompts,
        inputs="tensors",
    ),
)
