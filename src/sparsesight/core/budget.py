"""How many visual tokens each stage keeps, computed from sizes alone.

A *stage* prunes after one decoder layer. ``retain`` asks for an average over layers, the *equal tokens*, which has two
conventions in the literature:

* ``published``: a layer counts the visual tokens that *leave* it, so a pruning layer counts at its pruned size.
  SparseVLM's tables use this convention, and so does ``retain``.
* ``entering``: a layer counts the visual tokens that *enter* it, which it computes and caches. Always larger: 206.5
  for the published v1.5 schedule of 192.03.

The merged tokens that recycling adds count in both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from numbers import Integral

from ..errors import BudgetError, brief
from .retain import check_retain

Retain = int | float | tuple[int, ...]

# Depths of the published pruning layers are given for a decoder of this many layers.
PUBLISHED_LAYERS = 32
PUBLISHED_VISUAL = 576
# The "layer" of a stage before the first decoder layer.
BEFORE = -1


@dataclass(frozen=True)
class Stage:
    """Counts of one stage. ``tokens_out = keep + merged`` visual tokens enter the next layer."""

    layer: int  # 0-based decoder layer after which the stage prunes; BEFORE the first
    tokens_in: int
    keep: int
    recycled: int = 0  # dropped tokens that are merged ...
    merged: int = 0  # ... into this many

    @property
    def tokens_out(self) -> int:
        return self.keep + self.merged


@dataclass(frozen=True)
class StageSizes:
    """Sizes of one sample at a stage, from which a method computes its own cost (``Method.overhead``)."""

    index: int  # which stage, from 0
    tokens_in: int  # visual tokens
    keep: int
    recycled: int
    merged: int
    text: int  # text tokens after the visual ones
    keys: int  # of the pruning layer's attention; before the first layer, the tokens that enter it
    width: int  # of all attention heads together
    hidden: int  # width of the hidden states


@dataclass(frozen=True)
class Schedule:
    """The counts of every stage for one sample with ``visual`` visual tokens."""

    visual: int
    num_layers: int
    stages: tuple[Stage, ...]

    @property
    def entering(self) -> tuple[int, ...]:
        """Visual tokens entering each layer."""
        counts = [self.visual] * self.num_layers
        for stage in self.stages:
            counts[stage.layer + 1 :] = [stage.tokens_out] * (self.num_layers - stage.layer - 1)
        return tuple(counts)

    @property
    def equal_tokens(self) -> float:
        """Average visual tokens per layer, ``published`` convention."""
        leaving = (*self.entering[1:], self.stages[-1].tokens_out if self.stages else self.visual)
        return sum(leaving) / self.num_layers

    @property
    def equal_tokens_entering(self) -> float:
        """Average visual tokens per layer, ``entering`` convention."""
        return sum(self.entering) / self.num_layers


def cached_tokens(entering: tuple[int, ...], first_stage: int, trimmed: bool) -> tuple[int, ...]:
    """Visual tokens that each layer caches; ``trimmed``: none before the first stage caches more than leave it."""
    early = first_stage + 1 if trimmed else 0
    return (entering[early],) * early + entering[early:]


def recycled_counts(dropped: int, fraction: float) -> tuple[int, int]:
    """Recycled tokens ``int(fraction * dropped) + 1``, clusters ``int(recycled / 10) + 1``; (0, 0) if none dropped."""
    if not dropped or not fraction:
        return 0, 0
    recycled = min(int(dropped * fraction) + 1, dropped)
    return recycled, int(recycled / 10) + 1


def pruning_layers(
    depths: tuple[int, ...], num_layers: int, allowed: tuple[int, ...] | None = None
) -> tuple[int, ...]:
    """Published depths (given for 32 layers) at the same relative depth of another decoder.

    Args:
        depths: 0-based layers of a 32-layer decoder, or :data:`BEFORE`.
        num_layers: layers of this decoder.
        allowed: layers after which this model may prune; each depth moves to the nearest one, :data:`BEFORE` to the
            first if it is not among them, as in models that add picture features to early layers (deepstack). Default:
            all but the last.

    Raises:
        BudgetError: the decoder has fewer layers to prune after than there are depths.
    """
    allowed = tuple(range(BEFORE, num_layers - 1)) if allowed is None else allowed
    after = tuple(x for x in allowed if x != BEFORE)
    if depths[:1] == (BEFORE,) and BEFORE in allowed:
        return (BEFORE, *pruning_layers(depths[1:], num_layers, after))
    if len(after) < len(depths):
        raise BudgetError(
            f"a decoder of {num_layers} layers offers {len(after)} pruning layers, but the method has {len(depths)} "
            "stages: pass layers=(...) with fewer"
        )
    chosen: list[int] = []
    for i, depth in enumerate(depths):
        # Rounded down, so that a budget that is possible at the published depths stays possible.
        wanted = depth * num_layers // PUBLISHED_LAYERS
        left = len(depths) - i - 1  # leave room for the stages that follow
        free = [x for x in after[: len(after) - left] if not chosen or x > chosen[-1]]
        chosen.append(min(free, key=lambda x: (abs(x - wanted), x)))
    return tuple(chosen)


@lru_cache(maxsize=4096, typed=True)  # typed: one token (1) is not every token (1.0)
def plan(
    retain: Retain,
    visual: int,
    num_layers: int,
    layers: tuple[int, ...],
    *,
    recycle: float = 0.0,
    always_drop: bool = False,
    published: tuple[tuple[int, tuple[int, ...]], ...] = (),
) -> Schedule:
    """Compute the counts of every stage.

    Args:
        retain: average visual tokens per layer (int; ``published`` convention), the same as a fraction of ``visual``
            (float, 1.0 = keep all), or explicit kept counts per stage (tuple).
        visual: visual tokens of the sample.
        num_layers: decoder layers.
        layers: 0-based layers after which to prune, or :data:`BEFORE`, ascending, each below ``num_layers - 1``.
        recycle: fraction of the dropped tokens that is merged (0: none).
        always_drop: the published clamp ``min(count, tokens - 1)``; without it, a stage may drop nothing.
        published: published schedules as ``((retain, counts), ...)``, used where they meet the request: 32 layers,
            576 visual tokens, the published pruning layers and recycling.

    Returns:
        A schedule whose equal tokens lie within one token of the request, or the largest that ``always_drop`` allows.

    Raises:
        BudgetError: no schedule meets the request; the message says which values are possible.
    """
    check_retain(retain)
    check_layers(layers, num_layers)
    if isinstance(retain, tuple):
        if len(retain) != len(layers):
            raise BudgetError(
                f"retain={retain!r} has {len(retain)} counts for {len(layers)} pruning layers {layers}"
            )
        return _build(retain, visual, num_layers, layers, recycle, always_drop)
    target = float(retain) if isinstance(retain, Integral) else float(retain) * visual
    if target >= visual and not always_drop:
        return Schedule(visual, num_layers, ())
    if num_layers == PUBLISHED_LAYERS and visual == PUBLISHED_VISUAL:
        for value, counts in published:
            if value == target and len(counts) == len(layers):
                known = _build(counts, visual, num_layers, layers, recycle, always_drop)
                if abs(known.equal_tokens - target) <= 1:
                    return known

    least = _build((1,) * len(layers), visual, num_layers, layers, recycle, always_drop).equal_tokens
    if target < least - 1:
        lowest = least - 1
        raise BudgetError(
            f"retain={retain!r} of {visual} visual tokens cannot be met when pruning after layers {layers} of "
            f"{num_layers}: possible are {math.ceil(lowest)} to {visual} (ratios "
            f"{math.ceil(1000 * lowest / visual) / 1000:.3f} to 1.0); prune earlier with layers=(...) to go lower"
        )
    return _solve(target, visual, num_layers, layers, recycle, always_drop)


def check_layers(layers: tuple[int, ...], num_layers: int | None = None) -> None:
    """Reject pruning layers that are not ascending or, if its depth is given, not within the decoder.

    Raises:
        BudgetError: with the layers and the valid range.
    """
    end = (
        math.inf if num_layers is None else num_layers - 1
    )  # pruning after the last layer would save nothing
    fits = isinstance(layers, tuple) and all(
        isinstance(x, Integral) and not isinstance(x, bool) and BEFORE <= x < end for x in layers
    )
    if not fits or not layers or any(a >= b for a, b in pairwise(layers)):
        possible = "0 on" if num_layers is None else f"0 to {num_layers - 2} (of {num_layers})"
        raise BudgetError(
            f"layers={brief(layers)}: give a tuple of ascending 0-based layers from {possible}; {BEFORE}: before "
            "the first"
        )


def _build(
    counts: tuple[int, ...],
    visual: int,
    num_layers: int,
    layers: tuple[int, ...],
    recycle: float,
    always_drop: bool,
) -> Schedule:
    """A schedule from kept counts, clamped to the tokens that each stage receives."""
    stages, tokens = [], visual
    for layer, count in zip(layers, counts, strict=True):
        keep = max(min(count, tokens - 1 if always_drop else tokens), 0)
        recycled, merged = recycled_counts(tokens - keep, recycle)
        stages.append(Stage(layer, tokens, keep, recycled, merged))
        tokens = keep + merged
    return Schedule(visual, num_layers, tuple(stages))


def _solve(
    target: float, visual: int, num_layers: int, layers: tuple[int, ...], recycle: float, always_drop: bool
) -> Schedule:
    """Every stage halves a token's odds of being kept: ``visual * s / (s + 2**i * (1 - s))``, ``s`` by bisection.

    This is the shape of the published schedules (odds of 1.08, 0.53, 0.26 at 192 tokens). It has one parameter, and
    the equal tokens grow with it. The later stages compensate for rounding.
    """

    def build(counts: tuple[int, ...]) -> Schedule:
        return _build(counts, visual, num_layers, layers, recycle, always_drop)

    def cost(counts: tuple[int, ...]) -> float:
        return build(counts).equal_tokens

    def counts_at(s: float) -> tuple[int, ...]:
        counts, tokens = [], visual
        for i in range(len(layers)):
            wanted = visual * s / (s + 2**i * (1 - s))
            # The tokens that recycling adds are subtracted first: keep + merged should lie on the curve.
            keep = round(wanted) - recycled_counts(max(tokens - round(wanted), 0), recycle)[1]
            keep = min(max(keep, 1), tokens)
            tokens = keep + recycled_counts(tokens - keep, recycle)[1]
            counts.append(keep)
        return tuple(counts)

    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(counts_at(middle)) < target else (low, middle)
    best = counts_at(high)
    for i in reversed(range(len(layers))):
        upper = min(best[i] + 64, build(best).stages[i].tokens_in)
        choices = [(*best[:i], k, *best[i + 1 :]) for k in range(max(best[i] - 64, 1), upper + 1)]
        best = min([best, *choices], key=lambda c: abs(cost(c) - target))
        if abs(cost(best) - target) <= 0.5:
            break
    return build(best)


def as_published(table: Mapping[int, tuple[int, ...]]) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """A table ``{retain: counts}`` in the hashable form that :func:`plan` takes."""
    return tuple(table.items())
