"""Stage inputs built by hand, as a host builds them: a left-padded batch, visual and text tokens compacted.

Padding is poisoned. Every sample has its own tensors, so that it can be run alone and in any batch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from sparsesight import Method, ops
from sparsesight.core.budget import BEFORE, Schedule
from sparsesight.core.rows import Rows
from sparsesight.core.stage import Attention, StageInput, Vision, planned_counts

NUM_LAYERS = 32


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def frequencies(d: int, base: float = 1e4) -> Tensor:
    return 1.0 / base ** (torch.arange(0, d, 2).float() / d)


@dataclass
class Sample:
    """A prompt of ``before`` tokens, the visual ones and ``after`` text tokens, at a pruning layer."""

    before: int
    visual: int
    after: int
    hidden: Tensor  # [n, c]
    query: Tensor  # [h, n, d]
    key: Tensor  # [g, n, d]
    rater: Tensor  # [after]
    looked_at: Tensor | None = None  # [visual], by the vision tower's class token
    patch_key: Tensor | None = None  # [visual, e], of the vision tower
    asked_for: Tensor | None = None  # [visual], cosine with the question in the space of a text tower
    frame: Tensor | None = None  # [visual], numbers of pictures

    def __post_init__(self) -> None:
        spread = normal(self.before + self.visual, self.visual).exp()
        self.looked_at = spread / spread.sum() if self.looked_at is None else self.looked_at
        self.patch_key = normal(self.visual, self.visual, 5) if self.patch_key is None else self.patch_key
        self.asked_for = (
            normal(self.visual + 7, self.visual).tanh() if self.asked_for is None else self.asked_for
        )
        if self.frame is None:  # two pictures, the first the smaller
            self.frame = (torch.arange(self.visual) >= self.visual // 3).long()

    @classmethod
    def random(
        cls, seed: int, before: int, visual: int, after: int, heads: int = 4, groups: int = 2, d: int = 8
    ) -> Sample:
        n = before + visual + after
        rater = normal(seed, after) > 0
        return cls(
            before,
            visual,
            after,
            normal(seed + 1000, n, 6),
            normal(seed + 2000, heads, n, d),
            normal(seed + 3000, groups, n, d),
            rater if rater.any() else ~rater,
        )

    @property
    def length(self) -> int:
        return self.before + self.visual + self.after

    @property
    def at_visual(self) -> slice:
        return slice(self.before, self.before + self.visual)

    @property
    def at_text(self) -> slice:
        return slice(self.before + self.visual, self.length)


def left(samples: Sequence[Tensor], width: int, fill: Any, axis: int = 0) -> Tensor:
    """Stack with padding in front of ``axis``."""
    padded = []
    for x in samples:
        filler = x.new_full((*x.shape[:axis], width - x.shape[axis], *x.shape[axis + 1 :]), fill)
        padded.append(torch.cat((filler, x), axis))
    return torch.stack(padded)


def build(
    method: Method,
    samples: Sequence[Sample],
    layers: tuple[int, ...] | None = None,
    index: int = 0,
    poison: float = math.nan,
    **changes: Any,
) -> tuple[Rows, StageInput]:
    """The rows of a batch and the input of its stage ``index`` (whose earlier stages are left out)."""
    layers = method.stage_layers(NUM_LAYERS) if layers is None else layers
    width = max(s.length for s in samples)
    valid = left([torch.ones(s.length, dtype=torch.bool) for s in samples], width, False)
    parts = [torch.tensor([False] * s.before + [True] * s.visual + [False] * s.after) for s in samples]
    rows = Rows.start(valid, left(parts, width, False))
    judging = [torch.cat((torch.zeros(s.before + s.visual, dtype=torch.bool), s.rater)) for s in samples]
    rows = dataclasses.replace(rows, rater=left(judging, width, False) & rows.text)
    column, is_visual = ops.compact(rows.visual, max(s.visual for s in samples))
    row, is_text = ops.compact(rows.text, max(s.after for s in samples))
    query = left([s.query for s in samples], width, poison, 1)
    position = (valid.cumsum(1) - 1).clamp(min=0)
    prunable = [s.visual > 0 and s.after > 0 for s in samples]
    schedules = [
        method.plan(s.visual, NUM_LAYERS, layers)
        if p and not method.data_dependent
        else Schedule(s.visual, NUM_LAYERS, ())
        for s, p in zip(samples, prunable, strict=True)
    ]
    planned = None
    if not method.data_dependent:
        planned = planned_counts(schedules, len(layers), torch.device("cpu"))[0][index]
    attention: dict[str, Any] = {
        "query": query.gather(2, row[:, None, :, None].expand(-1, query.shape[1], -1, query.shape[3])),
        "key": left([s.key for s in samples], width, poison, 1),
        "mask": ops.causal_rows(row, width, 0, valid),
        "key_column": column,
        "query_position": position.gather(1, row),
        "key_position": position,
        "inv_freq": frequencies(query.shape[-1], 1e10),  # narrow heads: no weight crosses zero here
        "scale": query.shape[-1] ** -0.5,
    }
    attention |= {name: changes.pop(name) for name in changes.keys() & {f.name for f in fields(Attention)}}
    given: dict[str, Any] = {
        "index": index,
        "layer": layers[index],
        "planned": planned,
        "visual": is_visual,
        "prunable": torch.tensor(prunable),
        "origin": rows.origin.gather(1, column),
        "hidden": left([s.hidden for s in samples], width, poison),
        "column": column,
        "text": is_text,
        "text_column": row,
        "rater": rows.rater.gather(1, row) & is_text,
        "at": None if layers[index] == BEFORE else Attention(**attention),
    }
    if method.requires_vision:
        wide, seen = column.shape[1], [(s.looked_at, s.patch_key) for s in samples]
        relevance = None
        if method.requires_text_tower:
            relevance = left([s.asked_for for s in samples if s.asked_for is not None], wide, 0.0)
        given["vision"] = Vision(*(left(list(x), wide, 0.0) for x in zip(*seen, strict=True)), relevance)  # type: ignore[arg-type]
    if method.requires_frames or method.per_frame:
        frames = [s.frame for s in samples if s.frame is not None]
        given["frame"] = left(frames, column.shape[1], 0)
        given["frame_tokens"] = left([x.bincount()[x] for x in frames], column.shape[1], 0)
    return rows, StageInput(**{**given, **changes})
