"""Caches with pruned layers: finding them, making them, refusing those that cannot be pruned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import cache_utils
from transformers.cache_utils import Cache, DynamicLayer

from ..errors import UnsupportedModelError
from .pruned_layer import PRUNED_KINDS, PrunedLayer

# Layers that store no keys: recurrent and convolutional ones, and those that read another layer's keys.
KEYLESS = {
    getattr(cache_utils, name)
    for name in ("LinearAttentionLayer", "DummyLayer")
    if hasattr(cache_utils, name)
}


# What a forward calls its cache: the first from transformers 5.24 on, which takes the second from callers as well.
CACHE_NAMES = ("cache", "past_key_values")


def cache_name(arguments: Mapping[str, Any]) -> str:
    """What the cache is called among a forward's arguments or results."""
    new, old = CACHE_NAMES
    return new if new in arguments else old


def cache_among(arguments: Mapping[str, Any]) -> Any:
    """The cache among a forward's arguments or results, under either name; None without one."""
    return arguments.get(cache_name(arguments))


def pruned_layer(cache: Cache | None, index: int) -> PrunedLayer | None:
    """The pruned layer at ``index``, or None if nothing was dropped from that layer."""
    layers = getattr(cache, "layers", ())
    layer = layers[index] if index < len(layers) else None
    return layer if isinstance(layer, PrunedLayer) and layer.logical else None


def cached_length(cache: Any) -> int:
    """Logical tokens of a cache; 0 without one."""
    return int(cache.get_seq_length()) if isinstance(cache, Cache) else 0


def was_pruned(cache: Cache | None) -> bool:
    """Whether any layer holds fewer tokens than its logical length, or once did."""
    return any(isinstance(layer, PrunedLayer) for layer in getattr(cache, "layers", ()))


def held_keys(cache: Cache | None, num_layers: int) -> tuple[int, ...]:
    """Keys stored by each layer; 0 for layers that store none."""
    layers = getattr(cache, "layers", ())
    counts = [
        layer.keys.shape[-2] if getattr(layer, "keys", None) is not None and layer.keys.numel() else 0
        for layer in layers
    ]
    return tuple((counts + [0] * num_layers)[:num_layers])


def make_pruned(cache: Cache, index: int) -> PrunedLayer:
    """Put a pruned layer in the place of the cache's layer ``index`` (created if the cache is lazy)."""
    while len(cache.layers) <= index:
        cache.layers.append(DynamicLayer())
    old = cache.layers[index]
    assert isinstance(old, DynamicLayer)  # check_cache() saw to it
    cache.layers[index] = layer = PrunedLayer.of(old)
    return layer


def check_cache(cache: Any, first: int) -> None:
    """Refuse a cache whose layers from ``first`` on cannot hold fewer tokens than their logical length.

    Raises:
        UnsupportedModelError: naming the kind of layer.
    """
    if cache is None:
        return
    if not isinstance(cache, Cache):
        raise UnsupportedModelError(f"past_key_values={type(cache).__name__}: pass a transformers Cache")
    kinds = {type(layer) for layer in cache.layers[first:]}
    lazy = getattr(cache, "layer_class_to_replicate", None)
    if lazy is not None:
        kinds.add(lazy)
    bad = sorted(k.__name__ for k in kinds - PRUNED_KINDS.keys() - KEYLESS if not issubclass(k, PrunedLayer))
    if bad:
        raise UnsupportedModelError(
            f"past_key_values has layers of type {bad}, which cannot be pruned yet: use a DynamicCache (the default)"
        )
