"""Reads the sizes that determine a decoder's cost from its modules and its cache."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers.cache_utils import Cache

from ..macs import DecoderShape, LayerShape
from .linear import linear_sizes
from .model_parts import Layer, ModelParts, attention_of, layer_config

# Names under which configs keep how many experts a token goes to.
ACTIVE_EXPERTS = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "top_k_experts",
    "moe_topk",
    "moe_top_k",
    "moe_k",
)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def decoder_shape(parts: ModelParts) -> DecoderShape:
    """The shape of a model's decoder: linear layers, convolutions and experts are counted as they are."""
    decoder: Any = parts.decoder
    layers = zip(parts.layers, parts.kinds, strict=True)
    return DecoderShape(
        hidden=decoder.config.hidden_size,
        layers=tuple(_layer_shape(layer, kind, decoder.config) for layer, kind in layers),
        kv_bytes=number_bytes(decoder),
    )


def _layer_shape(module: nn.Module, kind: Layer, config: Any) -> LayerShape:
    config = layer_config(config, kind.index)
    linear = sum(_linear(m, config) for m in module.modules())
    if not kind.attends:
        return LayerShape(linear, 0, 0)
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    query = getattr(config, "qk_head_dim", None) or head_dim
    value = getattr(config, "v_head_dim", None) or head_dim
    own = kind.source == kind.index
    return LayerShape(
        linear,
        width=heads * (query + value) // 2,
        cached=_cached(attention_of(module), config, query + value) if own else 0,
        window=kind.window,
    )


def _linear(module: nn.Module, config: Any) -> int:
    """Multiply-adds per token of one module's own weights."""
    sizes = linear_sizes(module)
    if sizes is not None:
        return sizes[0] * sizes[1]
    if isinstance(module, CONVOLUTIONS):
        return module.weight.numel()
    experts = [p for p in module.parameters(recurse=False) if p.ndim == 3]
    active = next((n for n in (getattr(config, key, None) for key in ACTIVE_EXPERTS) if n), None)
    return sum(p[0].numel() * (active or len(p)) for p in experts)


def _cached(attention: nn.Module | None, config: Any, both: int) -> int:
    """Numbers cached per token, before a cache shows them."""
    projections = [getattr(attention, name, None) for name in ("k_proj", "v_proj")]
    sizes = [None if p is None else linear_sizes(p) for p in projections]
    if all(sizes):
        return sum(size[1] for size in sizes if size)
    return (getattr(config, "num_key_value_heads", None) or config.num_attention_heads) * both


def cached_numbers(cache: Cache | None, num_layers: int) -> tuple[tuple[int, int], ...] | None:
    """Of each layer of a filled cache, per token: numbers of keys and values, and their bytes; None without one."""
    layers = getattr(cache, "layers", None)
    if not layers:
        return None
    counts = []
    for layer in layers:
        keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
        held = [
            (x.shape[1] * x.shape[3], x.element_size()) for x in (keys, values) if x is not None and x.numel()
        ]
        counts.append((sum(n for n, _ in held), sum(n * size for n, size in held)))
    return tuple((counts + [(0, 0)] * num_layers)[:num_layers])


def number_bytes(decoder: nn.Module) -> int:
    """Bytes of a number as the decoder computes it, and so caches it: that of its first weights that are not quantised.

    Under autocast as well: rotary tables have the dtype of the embeddings, and keys follow them.
    """
    return next(x.element_size() for x in decoder.parameters() if x.is_floating_point())
