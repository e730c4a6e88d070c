"""Protects a pruned cache: its layers know what filled them, and are locked between forwards.

A forward of a sparsified model unlocks them while it runs, if it prunes in the same way. Any other forward is refused
by the first layer that it asks for a mask size or gives keys to, before anything is cached.
"""

from __future__ import annotations

from typing import Any

from transformers.cache_utils import Cache

from .cache import make_pruned, was_pruned
from .filled_by import FilledBy
from .pruned_layer import PRUNED_KINDS, PrunedLayer


def sign(cache: Cache | None, filled_by: FilledBy) -> None:
    """Let all layers of a cache that a forward has pruned know what filled it, those too that hold everything: the
    first of them is the first to be asked."""
    if was_pruned(cache):
        assert cache is not None
        for index, layer in enumerate(cache.layers):
            filled = type(layer) in PRUNED_KINDS and getattr(layer, "is_initialized", False)
            if filled or isinstance(layer, PrunedLayer):
                make_pruned(cache, index).filled_by = filled_by


def unlock(cache: Any, reader: FilledBy) -> None:
    """Let a forward that prunes as ``reader`` use a cache.

    Raises:
        SparseSightError: if it was filled in another way.
    """
    for layer in getattr(cache, "layers", ()):
        if isinstance(layer, PrunedLayer):
            if layer.filled_by is not None and not layer.filled_by.fits(reader):
                raise layer.filled_by.refusal()
            layer.locked = False


def lock(cache: Any) -> None:
    """The forward that used it is over."""
    for layer in getattr(cache, "layers", ()):
        if isinstance(layer, PrunedLayer):
            layer.locked = True
