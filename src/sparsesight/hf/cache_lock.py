"""Who may go on with a cache that was pruned: its layers know what filled them, and are locked between forwards.

A forward of a sparsified model opens them while it runs, if it prunes in the same way. Any other one is refused by the
first layer that it asks for the size of a mask, or gives keys to: nothing has been cached then.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from transformers.cache_utils import Cache

from ..core.budget import BEFORE
from ..errors import SparseSightError
from .cache import PRUNED_KINDS, PrunedLayer, make_pruned, was_pruned


@dataclass(frozen=True)
class FilledBy:
    """What filled a cache."""

    method: str
    layers: tuple[int, ...]  # it pruned after them
    positions: str
    trimmed: bool  # whether the layers up to the first stage were cut as well

    def fits(self, other: FilledBy) -> bool:
        """Whether ``other`` may go on with the cache: its layers hold keys of the same stages."""
        return replace(self, method="") == replace(other, method="")

    def refusal(self) -> SparseSightError:
        """The error for whoever cannot go on with it."""
        how = f"pruning after layers {self.layers}" + (
            " (-1: before the first)" if BEFORE in self.layers else ""
        )
        how += ", compact positions" if self.positions == "compact" else ""
        how += ", early layers trimmed" if self.trimmed else ""
        return SparseSightError(
            f"past_key_values: this cache was filled by {self.method} {how}; its layers hold fewer keys than another "
            "method, other layers or the plain model expect: go on within sparsify() of the same, or start a new cache"
        )


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
