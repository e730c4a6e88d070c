"""A random CLIP whose vision tower is a model's, and its relevance by hand."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, PreTrainedTokenizerFast

from sparsesight import (
    CDPruner,
)
from tests.hf import tiny

WINDOW = 9  # of the text tower: seven tokens and two around them
METHOD = CDPruner(20, guide="text-tower", opposite=True)
ASKED = [
    "what is the red star",
    "how many small blue ring left of the star and a red ring",
    "what is a star",
    "ring ?",
]


def text_tokenizer() -> Any:
    words = ["<start>", *tiny.WORDS[5:], "<unknown>", "<end>"]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unknown>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"bos_token": "<start>", "eos_token": "<end>", "pad_token": "<end>", "unk_token": "<unknown>"}
    return PreTrainedTokenizerFast(tokenizer_object=core, **special)


def clip_of(model: Any, **vision: Any) -> CLIPModel:
    """A random CLIP with the vision tower of a model."""
    torch.manual_seed(3)
    tokenizer = text_tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=WINDOW,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.5,
    )
    of_model = {**model.config.vision_config.to_dict(), **vision}
    clip = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=of_model, projection_dim=16)).eval()
    with torch.no_grad():
        clip.vision_model.post_layernorm.weight.normal_()
        clip.vision_model.post_layernorm.bias.normal_()
    if not vision:
        clip.vision_model.load_state_dict({**model.model.vision_tower.state_dict(), **norm_of(clip)})
    return clip


def norm_of(clip: Any) -> dict[str, Tensor]:
    return {f"post_layernorm.{k}": v for k, v in clip.vision_model.post_layernorm.state_dict().items()}


def by_hand(model: Any, clip: Any, pixels: Tensor, question: str) -> Tensor:
    """CLIP's own towers, run beside the model: the cosine of every patch of some pictures and a question that fits."""
    layer = model.config.vision_feature_layer
    ids = text_tokenizer()(f"<start> {question} <end>", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        rows = clip.vision_model(pixels, output_hidden_states=True).hidden_states[layer][:, 1:]
        patch = clip.visual_projection(clip.vision_model.post_layernorm(rows)).flatten(0, 1)
        text = clip.text_projection(clip.text_model(ids).pooler_output)
    return torch.cosine_similarity(patch, text)


def built(family: str = "llava", layer: int = -1, attention: str = "sdpa") -> tuple[Any, Any]:
    model = tiny.model(family, attention)
    model.config.vision_feature_layer = layer
    return model, clip_of(model)


def relevance(run: Any) -> Tensor:
    """Of the visual tokens of the last prefill's samples, [b, v]."""
    return run.trace[0].stage.question_relevance
