"""One forward pass of a sparsified decoder: what it started with, which rows are left, what each layer must be given.

The decoder is cut into segments by its pruning layers. Before the first layer of a segment the survivors are chosen
and the hidden states shortened; every layer of the segment then gets masks, positions and a cache layer that fit. All
lengths follow from the schedules on the host, so the layer loop never waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..core.budget import BEFORE, Schedule
from ..core.host_count import HostCount, most_rows
from ..core.rows import Rows, advance
from ..core.stage import Attention, Counts, StageInput, Vision, planned_counts
from ..errors import SparseSightError
from .cache import held_keys, make_pruned, pruned_layer
from .decoder_shape import cached_numbers, number_bytes
from .families import Layer
from .layer_inputs import of_pruned_cache, of_rows_left
from .prompt.layout import Layout, Plan, Record, StageRecord, Trace
from .rope import axes
from .seen import CapturedAttention, positions_of
from .shorten import Keys, fold, unfold


@dataclass
class ForwardState:
    """State of one forward pass; it is created at the decoder's entrance and dropped at its exit."""

    plan: Plan
    cache: Any
    past: int  # logical tokens cached before
    length: int  # rows of the input
    batch: int
    device: torch.device
    position_ids: Tensor | None
    layout: Layout | None = None  # None: nothing to prune, only pruned caches to serve
    rows: Rows | None = None
    done: int = 0  # stages passed
    ragged: bool = False  # whether the current rows contain filler
    counts: tuple[Counts, ...] = ()
    prunable: Tensor | None = None
    tokens: tuple[int, ...] = ()  # current visual tokens per sample
    past_keys: tuple[int, ...] = ()
    tokens_out: list[tuple[int, ...]] = field(default_factory=list)
    recycled: list[tuple[int, ...]] = field(default_factory=list)
    merged: list[tuple[int, ...]] = field(default_factory=list)
    chosen: list[StageRecord] = field(default_factory=list)
    raters: Tensor | None = None  # which rows of the input judge
    rater_count: HostCount | None = None
    trace: list[Trace] = field(default_factory=list)
    seen: CapturedAttention | None = None  # what the probe saw last
    memo: dict[Any, Any] = field(default_factory=dict)
    frames: tuple[Tensor, Tensor] | None = None  # [b, n] frame of each row of the input, and its size
    vision: Vision | None = None  # of each row of the input, where the method asks
    axes_read: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # see `CapturedAttention.attention`
    asked: bool = (
        True  # whether hidden states or attentions are to be returned: what follows is kept for them
    )
    spans: list[tuple[int, Rows]] = field(default_factory=list)  # from which layer on there were which rows
    keys: dict[int, Keys] = field(default_factory=dict)  # what layers attend to, where that is not everything
    flight: Any = None  # the segment that runs as one program (fast.Flight)
    checkpointed: bool = False  # layers run again in the backward pass, and fill no cache

    # -- start ------------------------------------------------------------------------------------------------

    def activate(self, layout: Layout) -> None:
        """Plan the stages.

        Raises:
            BudgetError: if a sample's visual tokens cannot meet the budget; nothing has been computed yet.
        """
        plan = self.plan
        schedules = []
        for visual, prunable in zip(layout.visual, layout.prunable, strict=True):
            fixed = Schedule(visual, plan.num_layers, ())
            planned = prunable and not plan.method.data_dependent
            schedules.append(plan.method.plan(visual, plan.num_layers, plan.stages) if planned else fixed)
        if axes(plan.decoder) == 3 and self.position_ids is not None and self.position_ids.ndim == 3:
            layout = replace(layout, frames=layout.frames.by_positions(self.position_ids[-3:]))
        self.layout = replace(layout, rows=None)
        self.tokens = layout.visual
        held = held_keys(self.cache, plan.num_layers)
        self.past_keys = tuple(held[kind.source] for kind in plan.kinds)
        if not any(layout.prunable) or not (plan.method.data_dependent or any(s.stages for s in schedules)):
            return
        if not plan.method.data_dependent:
            self.counts = planned_counts(schedules, len(plan.stages), self.device)
        if plan.method.per_frame or plan.method.requires_frames:
            self.frames = layout.frames.numbers()
        self.prunable = torch.tensor(layout.prunable).to(self.device, non_blocking=True)
        self.rows = layout.rows

    def rate(self, hidden: Tensor) -> None:
        """Choose the raters, from what enters the first layer: [b, n, c], or several streams of it."""
        if self.rows is None or self.layout is None:
            return
        with self.plan.clock("raters"), torch.no_grad(), _in_full(self.device):
            rows = self.rows
            x = hidden if hidden.ndim == 3 else hidden[0]
            visual_at, is_visual = ops.compact(rows.visual, max(self.tokens))
            text_at, is_text = self._text()
            chosen = self.plan.method.select_raters(
                ops.gather_rows(x, visual_at), ops.gather_rows(x, text_at), is_visual, is_text
            )
            self.rater_count = most_rows(chosen)
            # Scatter the choice back; padding points at other rows and must not clear them.
            target = text_at.masked_fill(~is_text, rows.text.shape[1])
            rater = torch.nn.functional.pad(torch.zeros_like(rows.text), (0, 1))
            self.rows = replace(rows, rater=rater.scatter_(1, target, chosen)[:, :-1])
            row = rows.source.masked_fill(~rows.valid, self.length)
            judges = self.rows.rater.new_zeros(self.batch, self.length + 1)
            self.raters = judges.scatter_(1, row, self.rows.rater)[:, :-1]

    @property
    def active(self) -> bool:
        """Whether this forward prunes."""
        return self.rows is not None

    @property
    def kept_end(self) -> int:
        """How many of the last tokens are text, and so stay, in every sample that is pruned."""
        layout = self.layout
        assert layout is not None
        return min(t for t, prunable in zip(layout.text, layout.prunable, strict=True) if prunable)

    # -- inside the layers ------------------------------------------------------------------------------------

    def observe(self, layer: int, query: Tensor, key: Tensor, mask: Any, kwargs: dict[str, Any]) -> None:
        """Take what the next stage needs from a pruning layer's attention."""
        expected = self.plan.stages[self.done] if self.done < len(self.plan.stages) else None
        if self.rows is None or self.layout is None or layer != expected:
            return
        with self.plan.clock("scoring"), torch.no_grad():
            row, _ = self._text()
            self.seen = CapturedAttention.of(row, query, key, mask, kwargs, self.device)

    def enter(
        self, layer: int, hidden: Tensor, kwargs: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Any]] | None:
        """Inputs of a layer, rewritten for the rows that are left; None if nothing changes."""
        if self.checkpointed:
            self.cache = None
        elif self.cache is None:  # the decoder makes its own where it is given none
            self.cache = kwargs.get("past_key_values")
        if (
            self.rows is not None
            and self.done < len(self.plan.stages)
            and layer == self.plan.stages[self.done] + 1
        ):
            hidden = self._prune(hidden)
        if layer == 0 and self.plan.method.requires_raters:
            self.rate(hidden)
        kind = self.plan.kinds[layer]
        if self.rows is None or not self.done:
            cached = pruned_layer(self.cache, kind.source)
            changed = None if cached is None else of_pruned_cache(self, cached, kind, hidden, kwargs)
        else:
            changed = of_rows_left(self, kind, hidden, kwargs)
        return None if changed is None else (hidden, changed)

    def leave(self, hidden: Tensor) -> Tensor:
        """The last layer's output at the length of the input; rows of dropped tokens are zero."""
        if self.rows is None or not self.done or hidden.shape[-2] < self.rows.source.shape[1]:
            return hidden  # of few rows, the last ones: no token of theirs was dropped
        with self.plan.clock("gather"):
            target = self.rows.source.masked_fill(~self.rows.valid, self.length).to(hidden.device)
            flat = fold(hidden)
            full = flat.new_zeros(self.batch, self.length + 1, flat.shape[2])
            full = full.scatter_(1, target[..., None].expand_as(flat), flat)[:, :-1]
            return unfold(full, hidden)

    def dropped(self) -> Tensor | None:
        """Which rows of the input [b, n] are of visual tokens that did not reach the last layer as themselves."""
        if self.rows is None or self.layout is None or not self.done:
            return None
        rows, visual = self.rows, self.layout.frames.visual
        stays = rows.valid & ~(rows.visual & (rows.origin < 0))
        there = torch.zeros(self.batch, self.length + 1, dtype=torch.bool, device=self.device)
        there.scatter_(1, rows.source.masked_fill(~stays, self.length), True)
        return visual.to(self.device) & ~there[:, :-1]

    def rows_of(self, layer: int) -> Rows | None:
        """The rows that ``layer`` computed on; None if it was all of the input."""
        return next((rows for first, rows in reversed(self.spans) if layer >= first), None)

    def keys_of(self, layer: int) -> Keys | None:
        """The keys that ``layer`` attended to; None if nothing was dropped from them. After that layer has run."""
        if layer in self.keys:
            return self.keys[layer]
        cached = pruned_layer(self.cache, self.plan.kinds[layer].source)
        if cached is None:
            return None
        return Keys(*cached.key_slots(self.batch, self.device), cached.ragged, 0)

    def finish(self) -> Record | None:
        """What to remember of a prefill; None for other forwards."""
        if self.layout is None:
            return None
        return Record(
            self.layout,
            self.length,
            self.past_keys,
            cached_numbers(self.cache, self.plan.num_layers),
            number_bytes(self.plan.decoder),
            tuple(self.tokens_out),
            tuple(self.recycled),
            tuple(self.merged),
            tuple(self.chosen),
            self.raters,
            self.trace,
        )

    # -- parts ------------------------------------------------------------------------------------------------

    def _prune(self, hidden: Tensor) -> Tensor:
        """Choose and apply one stage's survivors."""
        plan, rows, layout = self.plan, self.rows, self.layout
        assert rows is not None and layout is not None and self.prunable is not None
        layer = plan.stages[self.done]
        if self.seen is None and layer != BEFORE:
            raise SparseSightError(f"decoder layer {layer} did not call its attention as expected")
        seen, self.seen = self.seen, None
        shaped, hidden = hidden, fold(hidden).to(self.device)
        column, visual = ops.compact(rows.visual, max(self.tokens))
        row, text = self._text()
        source = rows.source.gather(1, column)
        frame, frame_tokens = (x.gather(1, source) for x in self.frames) if self.frames else (None, None)
        with plan.clock("scoring"), torch.no_grad(), _in_full(self.device):
            stage = StageInput(
                index=self.done,
                layer=layer,
                planned=self.counts[self.done] if self.counts else None,
                visual=visual,
                prunable=self.prunable,
                origin=rows.origin.gather(1, column),
                hidden=hidden,
                column=column,
                text=text,
                text_column=row,
                rater=rows.rater.gather(1, row) & text,
                at=self._attention(seen, plan.kinds[layer], row, column, hidden.shape[1]),
                vision=None if self.vision is None else self.vision.at(source, visual),
                frame=frame,
                frame_tokens=frame_tokens,
                rater_count=None if self.rater_count is None else self.rater_count.read(),
            )
            score = plan.method.score(stage)
        with plan.clock("selection"), _in_full(self.device):
            selection = plan.method.select_from_scores(stage, score)
        with plan.clock("gather"):
            out = selection.counts.tokens_out
            lengths = [n - v + o for n, v, o in zip(layout.length, layout.visual, out, strict=True)]
            width = max(lengths)
            self.rows, shorter = advance(rows, stage, selection, width, plan.method.positions == "compact")
        self.ragged = min(lengths) < width
        self.tokens = out
        self.tokens_out.append(out)
        self.recycled.append(selection.counts.recycled)
        self.merged.append(selection.counts.merged)
        self.chosen.append(StageRecord.of(stage, source, selection))
        self.done += 1
        if self.asked:
            self.spans.append((stage.layer + 1, self.rows))
        self.memo.clear()
        if plan.trim_early and self.done == 1 and width < self.length:
            with plan.clock("cache"):
                self._trim(width)
        if plan.keep_trace:
            self.trace.append(Trace(stage, selection, self.rows))
        return unfold(shorter, shaped)

    def _attention(
        self, seen: CapturedAttention | None, kind: Layer, row: Tensor, column: Tensor, rows: int
    ) -> Attention | None:
        """Of the layer that just ran, if there is one."""
        if seen is None or self.rows is None:
            return None
        position = self._positions(self.rows)
        return seen.attention(self.plan.decoder, kind, row, column, rows, position, self.axes_read)

    def _trim(self, width: int) -> None:
        """Let the layers up to the first stage forget what it dropped: they are not run again before decoding."""
        assert self.rows is not None
        stays = torch.zeros(self.batch, self.length + 1, dtype=torch.bool, device=self.device)
        stays.scatter_(1, self.rows.source.masked_fill(~self.rows.valid, self.length), True)
        for kind in self.plan.kinds[: self.plan.stages[0] + 1]:
            if self.cache is not None and kind.attends and kind.source == kind.index:
                make_pruned(self.cache, kind.index).drop(self.past, stays[:, :-1], width, self.ragged)

    def _positions(self, rows: Rows) -> Tensor:
        """Rotary positions [b, n] (or [axes, b, n]) of the current rows at the layer that just ran."""
        if self.plan.method.positions == "compact" and self.done:
            return self.memo["positions", None][1][0]
        return positions_of(self.plan.decoder, rows, self.position_ids, self.past)

    def _text(self) -> tuple[Tensor, Tensor]:
        """Which of the current rows are text after the picture, [b, r], and which of those are no filler."""
        rows, layout = self.rows, self.layout
        assert rows is not None and layout is not None
        return self.once("text", None, lambda _: ops.compact(rows.text, max(layout.text)))

    def once(self, key: Any, value: Any, make: Callable[[Any], Any]) -> Any:
        """``make(value)``, computed once per segment and value."""
        key = (key, id(value)) if value is not None else key
        if key not in self.memo:
            self.memo[key] = (value, make(value))  # holding `value` keeps its id unique
        return self.memo[key][1]


def _in_full(device: torch.device) -> torch.autocast:
    """Scores are in fp32 under autocast, too."""
    return torch.autocast(device.type, enabled=False)
