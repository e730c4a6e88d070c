"""Random LLaVA models of a given shape, to measure speed without weights."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from .equal_cost import PromptSizes
from .errors import SparseSightError
from .macs import DecoderShape
from .suggestions import did_you_mean


@dataclass(frozen=True)
class Shape:
    """Sizes of a random LLaVA. ``heads`` defaults to a head width of 64, ``kv_heads`` to ``heads``."""

    layers: int = 24
    hidden: int = 1024
    ffn: int = 2816
    visual: int = 576
    text: int = 64
    heads: int = 0
    kv_heads: int = 0

    @classmethod
    def parse(cls, text: str, visual: int | None = None) -> Shape:
        """Read ``layers=24,hidden=1024,...``; what is not named keeps its default, ``visual`` wins over the text.

        Raises:
            SparseSightError: naming the part that is wrong and what is known.
        """
        values: dict[str, int] = {}
        for part in filter(None, (p.strip() for p in text.split(","))):
            name, _, value = part.partition("=")
            if name not in cls.__dataclass_fields__ or not value.isdigit() or not int(value):
                known = ", ".join(cls.__dataclass_fields__)
                near = did_you_mean(name, list(cls.__dataclass_fields__))
                raise SparseSightError(f"shape: {part!r} is not NAME=NUMBER with a name out of {known}{near}")
            values[name] = int(value)
        shape = cls(**{**values, **({} if visual is None else {"visual": visual})})
        heads = shape.heads or max(shape.hidden // 64, 1)
        shape = cls(**{**asdict(shape), "heads": heads, "kv_heads": shape.kv_heads or heads})
        if shape.hidden % heads or shape.hidden // heads % 2 or heads % shape.kv_heads or shape.layers < 2:
            raise SparseSightError(
                f"shape: {text!r} needs two layers or more, an even hidden / heads and kv_heads dividing heads"
            )
        return shape

    def __str__(self) -> str:
        """All but the visual tokens, which a benchmark may vary."""
        return (
            f"random LLaVA of {self.layers} layers, hidden {self.hidden}, MLP {self.ffn}, "
            f"heads {self.heads}/{self.kv_heads}, text {self.text}"
        )

    @property
    def before(self) -> int:
        """Text tokens before the picture: a system prompt, as LLaVA has."""
        return min(self.text // 2, 35)

    @property
    def prompt(self) -> PromptSizes:
        """Sizes of its prompt."""
        return PromptSizes(self.visual, self.text - self.before, self.before)

    @property
    def decoder(self) -> DecoderShape:
        """Sizes of its decoder, in float32."""
        return DecoderShape.llama(self.layers, self.hidden, self.ffn, self.heads, self.kv_heads, kv_bytes=4)


def random_llava(
    shape: Shape, dtype: torch.dtype, device: str, attention: str = "sdpa"
) -> tuple[nn.Module, dict[str, Any]]:
    """A LLaVA of random weights with a thin vision tower, and a prompt of exactly that shape.

    Only the decoder is measured, so the tower is as small as it can be; 2880 tokens come from five 576-token pictures.
    """
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    side = max(s for s in range(1, math.isqrt(shape.visual) + 1) if shape.visual % (s * s) == 0)
    vision = CLIPVisionConfig(
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        image_size=2 * side,
        patch_size=2,
        projection_dim=8,
    )
    text = LlamaConfig(
        hidden_size=shape.hidden,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        vocab_size=1000,
        max_position_embeddings=shape.visual + shape.text + 4096,
    )
    settings: dict[str, Any] = {
        "vision_config": vision,
        "text_config": text,
        "image_token_index": 999,
        "vision_feature_layer": -1,
        "attn_implementation": attention,
    }
    config = LlavaConfig(**settings)
    torch.manual_seed(0)
    with torch.device(device):
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            model = LlavaForConditionalGeneration(config).eval()
        finally:
            torch.set_default_dtype(before)
    model.generation_config.eos_token_id = None
    ids = torch.randint(5, 900, (1, shape.visual + shape.text))
    ids[:, shape.before : shape.before + shape.visual] = 999
    pixels = torch.randn(shape.visual // side**2, 3, 2 * side, 2 * side, dtype=dtype)
    prompt = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
    return model, {k: v.to(device) for k, v in prompt.items()}


def repeat_prompt(prompt: dict[str, Any], batch: int) -> dict[str, Any]:
    """The same prompt ``batch`` times."""
    return {k: v.repeat(batch, *[1] * (v.ndim - 1)) for k, v in prompt.items()}
