"""Tiny random LLaVA models with their real processors, and prompts that mix texts, pictures and sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

SIDE, PATCH = 48, 6  # 64 visual tokens
LAYERS = 7
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]
WORDS = [*SPECIAL, *"USER ASSISTANT : ? what is the red small star left of a blue ring and how many".split()]  # noqa: SIM905
FAMILIES = ("llava", "llava_next")


def tokenizer() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=["<image>"],
        padding_side="left",
    )


def model(
    family: str = "llava", attention: str = "sdpa", dtype: torch.dtype = torch.float32, **text: Any
) -> Any:
    """A random model of the family; the same weights for every attention implementation."""
    torch.manual_seed(7)
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=32,
    )
    settings = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 40,
        "initializer_range": 0.3,
        "max_position_embeddings": 2048,
        **text,
    }
    common: dict[str, Any] = {
        "vision_config": vision,
        "text_config": LlamaConfig(**settings),
        "image_token_index": WORDS.index("<image>"),
        "vision_feature_layer": -1,
        "attn_implementation": attention,
    }
    if family == "llava":
        built: Any = LlavaForConditionalGeneration(
            LlavaConfig(**common, image_seq_length=(SIDE // PATCH) ** 2)
        )
    else:
        pinpoints = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
        built = LlavaNextForConditionalGeneration(LlavaNextConfig(**common, image_grid_pinpoints=pinpoints))
    built.generation_config.eos_token_id = None
    built.generation_config.pad_token_id = 0
    built.generation_config.suppress_tokens = [WORDS.index("<image>")]  # random weights might say it
    with torch.no_grad():  # embeddings of the scale of the picture's, so that raters differ
        built.get_decoder().embed_tokens.weight.mul_(3)
    return built.to(dtype).eval()


def processor(family: str = "llava") -> Any:
    common: dict[str, Any] = {
        "tokenizer": tokenizer(),
        "patch_size": PATCH,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
    }
    size = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    if family == "llava":
        return LlavaProcessor(image_processor=CLIPImageProcessorPil(**size), **common)
    pinpoints = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
    return LlavaNextProcessor(
        image_processor=LlavaNextImageProcessorPil(image_grid_pinpoints=pinpoints, **size), **common
    )


def picture(seed: int, width: int = SIDE, height: int = SIDE) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


# Different texts, none, one or two pictures, pictures of different sizes, text between pictures.
SAMPLES: list[tuple[str, list[Image.Image]]] = [
    ("USER : <image> what is the red star ? ASSISTANT :", [picture(1, 60, 48)]),
    ("USER : <image> and a <image> how many small blue ring left of the star and a red ring ? ASSISTANT :",
     [picture(2, 48, 90), picture(3)]),
    ("USER : what is a star ? ASSISTANT :", []),
    ("the blue <image> ring ?", [picture(4, 200, 50)]),
]  # fmt: skip


def inputs(processor: Any, samples: list[tuple[str, list[Image.Image]]]) -> Any:
    """A left-padded batch of prompts; dtype of the pictures is fp32."""
    pictures = [image for _, images in samples for image in images]
    return processor(
        text=[text for text, _ in samples], images=pictures or None, padding=True, return_tensors="pt"
    )
