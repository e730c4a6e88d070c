"""Families with little in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from . import base, by_hand
from .base import Family, Sample

CHUNK = 24
VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}

LLAMA_SIDE, LLAMA_PATCH = 48, 6
LLAMA_TILE = (LLAMA_SIDE // LLAMA_PATCH // 2) ** 2  # tokens
LLAMA_MARKS = (
    "<|image_start|>",
    "<|image|>",
    "<|patch|>",
    "<|image_end|>",
    "<|tile_x_separator|>",
    "<|tile_y_separator|>",
)

STEP_SIDE, STEP_PATCH = 64, 4
STEP_TOKENS = (STEP_SIDE // STEP_PATCH // 4) ** 2
STEP_MARKS = ("<im_patch>", "<im_start>", "<im_end>", "<patch_start>", "<patch_end>")

MOLMO_SIDE, MOLMO_PATCH = 48, 6
MOLMO_MARKS = (
    "<im_patch>",
    "<im_col>",
    "<im_start>",
    "<low_res_im_start>",
    "<im_end>",
    "<frame_start>",
    "<frame_end>",
)


def _llama4(attention: str) -> Any:
    from transformers import (
        Llama4Config,
        Llama4ForConditionalGeneration,
        Llama4TextConfig,
        Llama4VisionConfig,
    )

    base.seed()
    words = base.tokenizer(*LLAMA_MARKS)
    config = Llama4Config(
        text_config=Llama4TextConfig(
            **by_hand.DEEP,
            intermediate_size_mlp=48,
            no_rope_layer_interval=2,
            attention_chunk_size=CHUNK,
            interleave_moe_layer_step=2,
            num_local_experts=4,
            num_experts_per_tok=2,
            pad_token_id=0,
        ),
        vision_config=Llama4VisionConfig(
            **VISION | {"intermediate_size": 64},
            image_size=LLAMA_SIDE,
            patch_size=LLAMA_PATCH,
            projector_input_dim=16,
            projector_output_dim=16,
            vision_output_dim=16,
            initializer_range=0.3,
        ),
        boi_token_index=words.convert_tokens_to_ids("<|image_start|>"),
        eoi_token_index=words.convert_tokens_to_ids("<|image_end|>"),
        image_token_index=words.convert_tokens_to_ids("<|patch|>"),
        attn_implementation=attention,
    )
    return base.finish(Llama4ForConditionalGeneration(config), *words.convert_tokens_to_ids([*LLAMA_MARKS]))


def _llama4_prompts(samples: Sequence[Sample]) -> dict[str, Any]:
    tile = "<|patch|>" * LLAMA_TILE

    def wide(image: Any) -> bool:
        return image.width >= 2 * image.height

    def picture(image: Any) -> str:
        tiles = f"{tile}<|tile_x_separator|>{tile}<|tile_y_separator|>" if wide(image) else ""
        return f"<|image_start|>{tiles}<|image|>{tile}<|image_end|>"

    out = by_hand.words(base.tokenizer(*LLAMA_MARKS), samples, picture)
    found = []
    for image in (image for sample in samples for image in sample.images):
        if wide(image):
            found += by_hand.pixels(image, 2 * LLAMA_SIDE, LLAMA_SIDE).split(LLAMA_SIDE, 2)
        found.append(by_hand.pixels(image, LLAMA_SIDE, LLAMA_SIDE))
    return out | ({"pixel_values": torch.stack(found)} if found else {})


def _step(attention: str) -> Any:
    from transformers import Step3p7Config, Step3p7ForConditionalGeneration
    from transformers.models.step3p7.configuration_step3p7 import Step3p7TextConfig, Step3p7VisionConfig

    base.seed()
    words = base.tokenizer(*STEP_MARKS)
    config = Step3p7Config(
        text_config=Step3p7TextConfig(
            **by_hand.DEEP,
            layer_types=by_hand.alternating("sliding_attention")[::-1],
            mlp_layer_types=["dense"] + ["sparse"] * 7,
            num_sliding_attention_heads=6,
            sliding_window=20,
            partial_rotary_factors=[0.5, 1.0] * 4,
            n_routed_experts=4,
            num_local_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=16,
            share_expert_dim=16,
            pad_token_id=0,
        ),
        vision_config=Step3p7VisionConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            mlp_ratio=2.0,
            image_size=STEP_SIDE,
            patch_size=STEP_PATCH,
            max_position_embeddings=(STEP_SIDE // STEP_PATCH) ** 2,
        ),
        image_token_id=words.convert_tokens_to_ids("<im_patch>"),
        attn_implementation=attention,
    )
    return base.finish(Step3p7ForConditionalGeneration(config), *words.convert_tokens_to_ids([*STEP_MARKS]))


def _step_prompts(samples: Sequence[Sample]) -> dict[str, Any]:
    def pieces(image: Any) -> int:  # of a wide picture, which are seen besides the whole
        return 2 if image.width >= 2 * image.height else 0

    def picture(image: Any) -> str:
        piece = f"<patch_start>{'<im_patch>' * 4}<patch_end>"
        return f"{piece * pieces(image)}<im_start>{'<im_patch>' * STEP_TOKENS}<im_end>"

    out = by_hand.words(base.tokenizer(*STEP_MARKS), samples, picture)
    pictures = [image for sample in samples for image in sample.images]
    if pictures:
        out["pixel_values"] = torch.stack([by_hand.pixels(i, STEP_SIDE, STEP_SIDE) for i in pictures])
        out["num_local_patches"] = torch.tensor([pieces(i) for i in pictures])
        half = STEP_SIDE // 2
        local = [p for i in pictures if pieces(i) for p in by_hand.pixels(i, 2 * half, half).chunk(2, 2)]
        if local:
            out["pixel_values_local"] = torch.stack(local)
    return out


def _molmo2(attention: str) -> Any:
    from transformers import Molmo2Config, Molmo2ForConditionalGeneration

    base.seed()
    words = base.tokenizer(*MOLMO_MARKS)
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.3}
    config = Molmo2Config(
        text_config=base.TEXT | {"additional_vocab_size": 8},
        vision_config=heads
        | {
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "image_size": [MOLMO_SIDE, MOLMO_SIDE],
            "patch_size": MOLMO_PATCH,
        },
        adapter_config=heads
        | {
            "vision_feature_layer": [0, 1],
            "hidden_size": 16,
            "intermediate_size": 24,
            "text_hidden_size": base.TEXT["hidden_size"],
        },
        image_patch_id=words.convert_tokens_to_ids("<im_patch>"),
        image_start_token_id=words.convert_tokens_to_ids("<im_start>"),
        low_res_image_start_token_id=words.convert_tokens_to_ids("<low_res_im_start>"),
        image_end_token_id=words.convert_tokens_to_ids("<im_end>"),
        frame_start_token_id=words.convert_tokens_to_ids("<frame_start>"),
        frame_end_token_id=words.convert_tokens_to_ids("<frame_end>"),
        initializer_range=0.3,
        attn_implementation=attention,
    )
    return base.finish(Molmo2ForConditionalGeneration(config), *words.convert_tokens_to_ids([*MOLMO_MARKS]))


def _molmo2_prompts(samples: Sequence[Sample]) -> dict[str, Any]:
    """Every picture once whole and once as one crop; tokens pool 2 x 2 patches."""
    words = base.tokenizer(*MOLMO_MARKS)
    side = MOLMO_SIDE // MOLMO_PATCH // 2
    rows = ("<im_patch>" * side + "<im_col>") * side
    out = by_hand.words(words, samples, lambda _: f"<low_res_im_start>{rows}<im_end><im_start>{rows}<im_end>")
    # What belongs to a picture sees all of that in both directions, as the processor marks it.
    marks = torch.tensor(words.convert_tokens_to_ids([*MOLMO_MARKS]))
    out["mm_token_type_ids"] = torch.isin(out["input_ids"], marks).long()
    pictures = [image for sample in samples for image in sample.images]
    if pictures:
        views = [v for i in pictures for v in (by_hand.pixels(i, MOLMO_SIDE, MOLMO_SIDE),) * 2]
        out["pixel_values"] = torch.stack([by_hand.patches(v, MOLMO_PATCH) for v in views])
        patch = torch.arange(len(views) * 4 * side**2).reshape(-1, side, 2, side, 2)
        out["image_token_pooling"] = patch.transpose(2, 3).reshape(-1, 4)
        out["image_grids"] = torch.full((len(pictures), 4), side)
        out["image_num_crops"] = torch.full((len(pictures),), 2)
    return out


# Their image processors need torchvision.
FAMILIES = (
    Family(
        "llama4",
        _llama4,
        _llama4_prompts,
        inputs="tensors",
        decoder="chunked attention, layers without positions, mixture of experts",
        unrun={"5.24": "transformers 5.24 reads a field that its output lacks"},
        broken={"beams": "transformers repeats the text of a sample for its beams, but not all its tiles"},
        visual_ids=(6,),
        layers="language_model.model.layers",
        kinds="wfwfwfwf",
    ),
    Family(
        "step3p7",
        _step,
        _step_prompts,
        inputs="tensors",
        decoder="sliding window with more heads, mixture of experts",
        kinds="fwfwfwfw",
    ),
    Family("molmo2", _molmo2, _molmo2_prompts, inputs="tensors", decoder="bidirectional pictures"),
)
