"""Sizes read off real decoders, by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaModel,
    Qwen2Config,
    Qwen2Model,
    Qwen3Config,
    Qwen3Model,
    Qwen3MoeConfig,
    Qwen3MoeModel,
)

from sparsesight.hf.decoder_shape import decoder_shape
from sparsesight.hf.model_parts import inspect_model
from sparsesight.macs import DecoderShape, LayerShape

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "vocab_size": 50,
}


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_llama(kv_heads: int, dtype: torch.dtype, size: int) -> None:
    config = LlamaConfig(**SIZES, num_hidden_layers=3, num_key_value_heads=kv_heads)
    shape = decoder_shape(inspect_model(LlamaModel(config).to(dtype)))
    assert shape == DecoderShape.llama(3, 64, 96, 4, kv_heads, kv_bytes=size)


@pytest.mark.parametrize(("kind", "config"), [(Qwen2Model, Qwen2Config), (Qwen3Model, Qwen3Config)])
def test_other_decoders(kind: Any, config: Any) -> None:
    """Biases and norms are not counted; a head may be wider than ``hidden / heads``."""
    extra = {"head_dim": 32} if config is Qwen3Config else {}
    settings = config(**SIZES, num_hidden_layers=2, num_key_value_heads=2, **extra)
    shape, width = decoder_shape(inspect_model(kind(settings))), 32 if extra else 16
    linear = 2 * 64 * 4 * width + 2 * 64 * 2 * width + 3 * 64 * 96
    assert shape == DecoderShape(64, (LayerShape(linear, 4 * width, 4 * width),) * 2, 4)


def test_only_active_experts_count() -> None:
    config = Qwen3MoeConfig(
        **SIZES,
        num_hidden_layers=2,
        num_key_value_heads=2,
        head_dim=16,
        num_experts=8,
        num_experts_per_tok=3,
        moe_intermediate_size=20,
    )
    shape = decoder_shape(inspect_model(Qwen3MoeModel(config)))
    experts = 3 * 3 * 64 * 20  # three of them, each a gated MLP
    attention = 2 * 64 * 64 + 2 * 64 * 32
    router = shape.layers[0].linear - experts - attention
    assert router in (0, 8 * 64)  # a linear layer in some versions of transformers, a plain weight in others


def test_windows_are_those_of_each_layer() -> None:
    config = Qwen2Config(
        **SIZES,
        num_hidden_layers=4,
        num_key_value_heads=2,
        use_sliding_window=True,
        sliding_window=12,
        max_window_layers=2,
    )
    shape = decoder_shape(inspect_model(Qwen2Model(config)))
    assert [x.window for x in shape.layers] == [None, None, 12, 12]
