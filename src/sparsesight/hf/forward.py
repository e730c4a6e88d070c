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
from ..budget import BEFORE, Schedule
from ..errors import SparseSightError
from ..methods.rows import Rows, advance
from ..methods.stage import Attention, Counts, StageInput, Vision, planned_counts
from .cache import PrunedLayer, held_keys, make_pruned, pruned_layer
from .families import Layer
from .layout import Chosen, Layout, Plan, Record, Trace
from .masks import select_mask
from .rotary import axes
from .seen import Seen, positions_of
from .shape import cached_numbers
from .shorten import NOT_ROWS, Keys, fold, same_arguments, take_rows, unfold


@dataclass
class Forward:
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
    chosen: list[Chosen] = field(default_factory=list)
    raters: Tensor | None = None  # which rows of the input judge
    trace: list[Trace] = field(default_factory=list)
    seen: Seen | None = None  # what the probe saw last
    memo: dict[Any, Any] = field(default_factory=dict)
    frames: tuple[Tensor, Tensor] | None = None  # [b, n] frame of each row of the input, and its size
    vision: Vision | None = None  # of each row of the input, where the method asks
    axes_read: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # see `Seen.attention`
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
        if plan.method.per_frame or plan.method.reads_frames:
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
            text_at, is_text = self._text(rows)
            chosen = self.plan.method.rate(ops.take(x, visual_at), ops.take(x, text_at), is_visual, is_text)
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
            row, _ = self._text(self.rows)
            self.seen = Seen.of(row, query, key, mask, kwargs, self.device)

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
        if layer == 0 and self.plan.method.reads_raters:
            self.rate(hidden)
        kind = self.plan.kinds[layer]
        if self.rows is None or not self.done:
            known = pruned_layer(self.cache, kind.source)
            return None if known is None else self._serve(known, kind, hidden, kwargs)
        with self.plan.clock("masks"):
            keys = self._keys(kind) if kind.attends else None
            if keys is not None and self.asked:
                self.keys[layer] = keys
            # Mostly, layers of a kind are all given the same.
            place = ("arguments", kind.kind, kind.attends, hidden.shape[-2])
            before = self.memo.get(place)
            if before is None or not same_arguments(before[0], kwargs):
                before = self.memo[place] = (kwargs, self._arguments(kind, keys, hidden, kwargs))
            changed = dict(before[1])
        return hidden, changed

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
            tuple(self.tokens_out),
            tuple(self.recycled),
            tuple(self.merged),
            tuple(self.chosen),
            self.raters,
            self.trace,
        )

    # -- parts ------------------------------------------------------------------------------------------------

    def _serve(
        self, cached: PrunedLayer, kind: Layer, hidden: Tensor, kwargs: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Any]] | None:
        """A forward without pruning (decoding, a text-only turn) over a cache that was pruned before."""
        compact = self.plan.method.positions == "compact"
        if kwargs.get("attention_mask") is None and not cached.ragged and not compact:
            return None
        with self.plan.clock("masks"):
            segment = sum(kind.index > p for p in self.plan.stages)
            row = torch.arange(self.length, device=self.device).expand(self.batch, -1)

            def keys(_: Any) -> Keys:
                return Keys.of(cached, row + self.past, torch.ones_like(row, dtype=torch.bool), cached.ragged)

            changed = dict(kwargs)
            self._finish(
                changed,
                hidden,
                kwargs,
                row,
                self._once(("keys", segment, kind.kind), None, keys),
                kind,
                segment,
            )
        return hidden, changed

    def _arguments(
        self, kind: Layer, keys: Keys | None, hidden: Tensor, kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """``kwargs`` of a layer for the rows that are left; ``keys`` are None for one without attention."""
        assert self.rows is not None
        source = self.rows.source
        # Some decoders go on with their last rows where no later layer needs keys of the others; all that they
        # pass to those layers is cut already.
        rows = hidden.shape[-2]
        fixed = NOT_ROWS if rows == source.shape[1] else kwargs.keys() - {"position_ids"}
        changed = {
            k: v if k in fixed else self._once(k, v, lambda v: take_rows(v, source, self.length))
            for k, v in kwargs.items()
        }
        if keys is not None:
            self._finish(changed, hidden, kwargs, self.rows.slot[:, -rows:], keys, kind)
        else:
            changed["attention_mask"] = self._once("padding", kwargs.get("attention_mask"), self._padding)
        return changed

    def _keys(self, kind: Layer) -> Keys:
        """The keys a layer sees, from its cache if there is one; noted there if the layer is to store them."""
        rows = self.rows
        assert rows is not None
        with self.plan.clock("cache"):
            cached = make_pruned(self.cache, kind.source) if self.cache is not None else None
            seen = self.memo.get(("keys", kind.kind))
            if seen is None:
                slot = rows.slot + self.past
                if cached is None or not cached.physical_length():
                    seen = Keys(slot, rows.valid, self.ragged, 0)
                else:
                    seen = Keys.of(cached, slot, rows.valid, self.ragged or cached.ragged)
                self.memo["keys", kind.kind] = seen
            if cached is not None and kind.source == kind.index:
                cached.note(seen.slot, seen.valid, self.past + self.length, seen.ragged)
        return seen

    def _padding(self, mask: Any) -> Any:
        """The mask of a layer without attention: which of its rows are tokens."""
        assert self.rows is not None
        if mask is None:
            return self.rows.valid if self.ragged else None
        return (take_rows(mask, self.rows.source, self.length).bool() & self.rows.valid).to(mask.dtype)

    def _finish(
        self,
        changed: dict[str, Any],
        hidden: Tensor,
        kwargs: dict[str, Any],
        row: Tensor,
        keys: Keys,
        kind: Layer,
        segment: int | None = None,
    ) -> None:
        """Mask and positions, made once per segment."""
        plan = self.plan
        if "attention_mask" in kwargs:
            changed["attention_mask"] = self._once(
                ("mask", segment, kind.kind, row.shape[1]),
                kwargs["attention_mask"],
                lambda m: select_mask(
                    m,
                    row,
                    keys.slot,
                    keys.valid,
                    ragged=keys.ragged,
                    past=self.past,
                    total=self.past + self.length,
                    flash=plan.flash,
                ),
            )
        if plan.method.positions == "compact" and kind.index > plan.stages[0]:
            fine = self.rows.valid if self.rows is not None else torch.ones_like(row, dtype=torch.bool)

            def renumber(_: Any) -> tuple[Tensor, Any]:
                position = (fine.cumsum(1) - 1).clamp(min=0) + keys.before
                return position, plan.decoder.rotary_emb(hidden, position)  # type: ignore[operator]

            changed["position_ids"], changed["position_embeddings"] = self._once(
                ("positions", segment), None, renumber
            )
        if plan.flash and changed.get("position_ids") is not None:
            # Gapped positions of a single sample would be taken for a packed sequence.
            changed["position_ids"] = None

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
        row, text = self._text(rows)
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
                vision=self._vision(source, visual),
                frame=frame,
                frame_tokens=frame_tokens,
            )
            score = plan.method.score(stage)
        with plan.clock("selection"), _in_full(self.device):
            selection = plan.method.choose(stage, score)
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
        self.chosen.append(Chosen.of(stage, source, selection))
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
        self, seen: Seen | None, kind: Layer, row: Tensor, column: Tensor, rows: int
    ) -> Attention | None:
        """Of the layer that just ran, if there is one."""
        if seen is None or self.rows is None:
            return None
        position = self._positions(self.rows)
        return seen.attention(self.plan.decoder, kind, row, column, rows, position, self.axes_read)

    def _vision(self, source: Tensor, visual: Tensor) -> Vision | None:
        """Of the visual tokens that are left; a merged one has that of its cluster centre."""
        if self.vision is None:
            return None
        attention, key = (ops.take(x, source) for x in (self.vision.attention, self.vision.key))
        relevance = self.vision.relevance
        if relevance is not None:
            relevance = ops.take(relevance, source).masked_fill(~visual, 0)
        return Vision(attention.masked_fill(~visual, 0), key.masked_fill(~visual[..., None], 0), relevance)

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

    def _text(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Which of the current rows are text after the picture, [b, r], and which of those are no filler."""
        width = max(self.layout.text) if self.layout is not None else 0
        return self._once("text", None, lambda _: ops.compact(rows.text, width))

    def _once(self, key: Any, value: Any, make: Callable[[Any], Any]) -> Any:
        """``make(value)``, computed once per segment and value."""
        key = (key, id(value)) if value is not None else key
        if key not in self.memo:
            self.memo[key] = (value, make(value))  # holding `value` keeps its id unique
        return self.memo[key][1]


def _in_full(device: torch.device) -> torch.autocast:
    """Scores are in fp32 under autocast, too."""
    return torch.autocast(device.type, enabled=False)
