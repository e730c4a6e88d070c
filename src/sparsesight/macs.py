"""The cost of a prefill: arithmetic and KV memory, from counts and sizes alone.

Conventions, stated once: costs are counted in multiply-adds (MACs), as in SparseVLM's tables, where they are called
FLOPs; one is two floating-point operations, so a ratio is the same in either. Attention counts the full ``queries x
keys`` rectangle (no causal halving); the vocabulary projection and the vision tower are left out, since
sparsification does not change them. With ordinary multi-head attention and a gated MLP this is the published
``sum_l (4 n d^2 + 2 n^2 d + 3 n d m)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from .core.budget import Schedule, StageSizes

Overhead = Callable[[StageSizes], int]


@dataclass(frozen=True)
class LayerShape:
    """Sizes of a decoder layer that determine its cost.

    Attributes:
        linear: multiply-adds per token of its projections, convolutions, MLP and active experts.
        width: of all attention heads together; 0 without attention (a recurrence itself is not counted).
        cached: numbers that it caches per token, keys and values; 0 if it reads another layer's or none.
        window: tokens that a sliding window sees, including the newest: its cache keeps one fewer.
    """

    linear: int
    width: int
    cached: int
    window: int | None = None
    cached_bytes: int | None = (
        None  # that those numbers take, as measured; None: the decoder's `kv_bytes` each
    )


@dataclass(frozen=True)
class DecoderShape:
    """Sizes of a decoder that determine its cost.

    Attributes:
        hidden: model width.
        layers: its layers.
        kv_bytes: bytes of one cached number.
    """

    hidden: int
    layers: tuple[LayerShape, ...]
    kv_bytes: int = 2

    @classmethod
    def llama(
        cls, layers: int, hidden: int, ffn: int, heads: int, kv_heads: int | None = None, kv_bytes: int = 2
    ) -> DecoderShape:
        """A Llama-style decoder: q, k, v, o projections and a gated MLP of width ``ffn``."""
        kv_heads = kv_heads or heads
        head_dim = hidden // heads
        projections = 2 * hidden * head_dim * (heads + kv_heads)
        layer = LayerShape(projections + 3 * hidden * ffn, heads * head_dim, 2 * kv_heads * head_dim)
        return cls(hidden, (layer,) * layers, kv_bytes)

    def caching(self, cached: Sequence[int], sizes: Sequence[int] | None = None) -> DecoderShape:
        """The same with the measured numbers cached per token, per layer, and their bytes."""
        known: Sequence[int | None] = [None] * len(cached) if sizes is None else sizes
        layers = tuple(
            replace(x, cached=c, cached_bytes=size)
            for x, c, size in zip(self.layers, cached, known, strict=True)
        )
        return replace(self, layers=layers)

    def prefill_macs(self, entering: Sequence[int], past: Sequence[int] | None = None) -> int:
        """Multiply-adds of one sample's prefill.

        Args:
            entering: tokens (text included) entering each layer.
            past: keys cached before, per layer; default none.
        """
        past = past or [0] * len(self.layers)
        return sum(
            n * x.linear + 2 * n * (n + p) * x.width
            for x, n, p in zip(self.layers, entering, past, strict=True)
        )

    def overhead_macs(
        self,
        schedule: Schedule,
        others: int | Sequence[int],
        text: int,
        overhead: Overhead,
        past: Sequence[int] | None = None,
    ) -> int:
        """Multiply-adds of a method itself in one sample's prefill.

        Args:
            schedule: of the visual tokens that are scored together.
            others: number of other tokens, one for all stages or per stage.
            text: number of scoring text tokens among them.
            overhead: of the method, at one stage.
            past: keys cached before, per layer; default none.
        """
        total = 0
        for index, stage in enumerate(schedule.stages):
            layer = max(stage.layer, 0)
            sizes = StageSizes(
                index=index,
                tokens_in=stage.tokens_in,
                keep=stage.keep,
                recycled=stage.recycled,
                merged=stage.merged,
                text=text,
                keys=(others if isinstance(others, int) else others[index])
                + stage.tokens_in
                + (past[layer] if past else 0),
                width=self.layers[layer].width,
                hidden=self.hidden,
            )
            total += overhead(sizes)
        return total

    def kv_lengths(self, entering: Sequence[int], past: Sequence[int]) -> tuple[int, ...]:
        """Keys held by each layer after tokens entered it, ``past`` of them before."""

        def held(layer: LayerShape, keys: int) -> int:
            if not layer.cached:
                return 0
            return keys if layer.window is None else min(keys, layer.window - 1)

        return tuple(held(x, n + p) for x, n, p in zip(self.layers, entering, past, strict=True))

    def least_peak_bytes(self, entering: Sequence[int]) -> int:
        """Lower bound of a sample's peak prefill memory in bytes: keys and values of the layers so far, hidden states.

        Args:
            entering: tokens (text included) entering each layer.
        """
        most = held = 0
        for layer, n in zip(self.layers, entering, strict=True):
            held += n * layer.cached
            most = max(most, held + n * self.hidden)
        return self.kv_bytes * most

    def kv_cache_bytes(self, lengths: Sequence[int]) -> int:
        """Bytes of keys and values of one sample, from the keys held by each layer."""
        return sum(
            n * (self.kv_bytes * x.cached if x.cached_bytes is None else x.cached_bytes)
            for x, n in zip(self.layers, lengths, strict=True)
        )
