"""The state of one forward pass of a sparsified decoder: its input, the remaining rows, the inputs of each layer.

Pruning layers divide the decoder into segments. Before the first layer of a segment tokens are selected and the hidden
states shortened; every layer of the segment then gets masks, positions and a cache layer that fit. All lengths follow
from the schedules on the host, so the layer loop never waits for the device.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..core.budget import Schedule, Stage
from ..core.host_count import HostCount
from ..core.record import StageTensors
from ..core.rows import RegionSizes, Rows
from ..core.stage import Attention, Counts, Vision, planned_counts
from ..core.step import StageFacts, TextRows, choose_raters, in_full, run_stage
from ..errors import SparseSightError
from .cache import cache_among, held_keys, make_pruned, pruned_layer
from .decoder_shape import cached_numbers, number_bytes
from .layer_inputs import SegmentInputs, fold, unfold
from .probe import CapturedAttention, positions_of
from .prompt.layout import Layout
from .record import PrefillRecord, Trace
from .rope import axes, check_positions


@dataclass
class ForwardState(SegmentInputs):
    """State of one forward pass; it is created at the decoder's entrance and dropped at its exit."""

    done: int = 0  # stages passed
    # What follows has one entry per region number (see `core.step`).
    counts: tuple[tuple[Counts, ...], ...] = ()  # per stage; none for a method that decides from data
    prunable: tuple[Tensor, ...] = ()
    in_front: tuple[Tensor, ...] = ()  # whose judging text precedes its picture; none if nobody's does
    sizes: tuple[RegionSizes, ...] = ()  # of the regions now
    others: tuple[int, ...] = ()  # rows of each sample that are not visual
    past_keys: tuple[int, ...] = ()
    token: Tensor | None = None  # see `Layout.token`
    counted: list[tuple[tuple[Stage, ...], ...]] = field(default_factory=list)  # see `PrefillRecord.counts`
    stages: list[StageTensors] = field(default_factory=list)
    raters: Tensor | None = None  # which rows of the input judge
    rater_counts: tuple[HostCount | None, ...] = ()
    trace: list[Trace] = field(default_factory=list)
    seen: tuple[CapturedAttention, ...] = ()  # what the probe saw last, per region number
    frames: tuple[Tensor, Tensor] | None = None  # [b, n] frame of each row of the input, and its size
    vision: Vision | None = None  # of each row of the input, where the method asks
    axes_read: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # see `CapturedAttention.attention`
    spans: list[tuple[int, Rows]] = field(default_factory=list)  # from which layer on there were which rows
    flight: Any = None  # the segment that runs as one program (compiled.dispatch.Flight)
    checkpointed: bool = False  # layers run again in the backward pass, and fill no cache

    # -- start ------------------------------------------------------------------------------------------------

    def activate(self, layout: Layout) -> None:
        """Plan the stages.

        Raises:
            BudgetError: if a sample's visual tokens cannot meet the budget; nothing has been computed yet.
            SparseSightError: if the positions do not fit.
        """
        plan, method = self.plan, self.plan.method
        if any(layout.visual):
            check_positions(plan.decoder, self.position_ids, self.batch, self.length)
        schedules = []
        for size in layout.sizes:
            for visual, text in zip(*size, strict=True):
                planned = visual and text and not method.data_dependent
                fixed = Schedule(visual, plan.num_layers, ())
                schedules.append(method.plan(visual, plan.num_layers, plan.stages) if planned else fixed)
        if axes(plan.decoder) == 3 and self.position_ids is not None and self.position_ids.ndim == 3:
            layout = replace(layout, frames=layout.frames.by_positions(self.position_ids[-3:]))
        self.layout = replace(layout, rows=None, token=None)
        self.sizes = layout.sizes
        self.others = tuple(n - v for n, v in zip(layout.length, layout.visual, strict=True))
        held = held_keys(self.cache, plan.num_layers)
        self.past_keys = tuple(held[kind.source] for kind in plan.kinds)
        if not any(layout.prunable) or not (method.data_dependent or any(s.stages for s in schedules)):
            return
        if not method.data_dependent:
            self.counts = planned_counts(schedules, len(plan.stages), self.device, len(layout.sizes))
        if method.per_frame or method.requires_frames:
            frame, tokens = layout.frames.numbers()
            self.frames = frame if layout.rows is None else layout.rows.since_region(frame), tokens
        may = [[v > 0 and t > 0 for v, t in zip(*size, strict=True)] for size in layout.sizes]
        self.prunable = tuple(torch.tensor(x).to(self.device, non_blocking=True) for x in may)
        if layout.in_front:
            told = (torch.tensor(x).to(self.device, non_blocking=True) for x in layout.in_front)
            self.in_front = tuple(told)
        self.rows, self.token = layout.rows, layout.token

    def rate(self, hidden: Tensor) -> None:
        """Choose the raters, from what enters the first layer: [b, n, c], or several streams of it."""
        if self.rows is None or self.layout is None:
            return
        with self.plan.clock("raters"), torch.no_grad(), in_full(self.device):
            x = hidden if hidden.ndim == 3 else hidden[0]
            rows, self.rater_counts = choose_raters(self.plan.method, self.rows, self.sizes, self._text(), x)
            self.rows = rows
            row = rows.source.masked_fill(~rows.valid, self.length)
            judges = rows.rater.new_zeros(self.batch, self.length + 1)
            self.raters = judges.scatter_(1, row, rows.rater)[:, :-1]

    @property
    def active(self) -> bool:
        """Whether this forward prunes."""
        return self.rows is not None

    @property
    def kept_end(self) -> int:
        """How many of the last tokens are text, and so stay, in every sample that is pruned."""
        layout = self.layout
        assert layout is not None
        return min(t for t, prunable in zip(layout.tail, layout.prunable, strict=True) if prunable)

    # -- inside the layers ------------------------------------------------------------------------------------

    def observe(self, layer: int, query: Tensor, key: Tensor, mask: Any, kwargs: dict[str, Any]) -> None:
        """Take what the next stage needs from a pruning layer's attention."""
        expected = self.plan.stages[self.done] if self.done < len(self.plan.stages) else None
        if self.rows is None or self.layout is None or layer != expected:
            return
        with self.plan.clock("scoring"), torch.no_grad():
            self.seen = tuple(
                CapturedAttention.of(text.column, query, key, mask, kwargs, self.device)
                for text in self._text()
            )

    def enter(
        self, layer: int, hidden: Tensor, kwargs: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Any]] | None:
        """Inputs of a layer, rewritten for the rows that are left; None if nothing changes."""
        if self.checkpointed:
            self.cache = None
        elif self.cache is None:  # the decoder makes its own where it is given none
            self.cache = cache_among(kwargs)
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
            changed = None if cached is None else self.of_pruned_cache(cached, kind, hidden, kwargs)
        else:
            changed = self.of_rows_left(kind, hidden, kwargs)
        return None if changed is None else (hidden, changed)

    def enter_call(self, layer: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The arguments with which a layer was called, rewritten; None if nothing changes."""
        more = {str(i): arg for i, arg in enumerate(args[1:])}
        given = {**more, **kwargs}
        changed = self.enter(layer, args[0] if args else given.pop("hidden_states"), given)
        if changed is None:
            return None
        hidden, kwargs = changed
        if args:
            return (hidden, *(kwargs.pop(i) for i in more)), kwargs
        return args, {**kwargs, "hidden_states": hidden}

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
        if not self.stages or self.token is None:
            return None
        return (self.token >= 0) & ~self.stages[-1].kept.gather(1, self.token.clamp(min=0))

    def rows_of(self, layer: int) -> Rows | None:
        """The rows that ``layer`` computed on; None if it was all of the input."""
        return next((rows for first, rows in reversed(self.spans) if layer >= first), None)

    def finish(self) -> PrefillRecord | None:
        """What to remember of a prefill; None for other forwards."""
        if self.layout is None:
            return None
        return PrefillRecord(
            self.layout,
            self.length,
            self.past_keys,
            cached_numbers(self.cache, self.plan.num_layers),
            number_bytes(self.plan.decoder),
            tuple(self.counted),
            tuple(self.stages),
            self.raters,
            self.trace,
        )

    # -- parts ------------------------------------------------------------------------------------------------

    def _prune(self, hidden: Tensor) -> Tensor:
        """Choose and apply one stage's survivors."""
        plan, rows = self.plan, self.rows
        assert rows is not None and self.layout is not None and self.token is not None
        layer = plan.stages[self.done]
        if not self.seen and layer in plan.read:
            raise SparseSightError(f"decoder layer {layer} did not call its attention as expected")
        seen, self.seen = self.seen, ()
        shaped, hidden = hidden, fold(hidden).to(self.device)

        def attention(number: int, text: TextRows, column: Tensor) -> Attention | None:
            if not seen:
                return None
            kind, position = plan.kinds[layer], self._positions(rows)
            at = seen[number].attention(
                plan.decoder, kind, text.column, column, hidden.shape[1], position, self.axes_read
            )
            document = self.document_of(rows)
            if document is None or not plan.flash:
                return at
            # FlashAttention keeps documents apart without a mask.
            own = document.gather(1, text.column)[..., None] == document[:, None]
            return at.also(lambda row: own.gather(1, row[..., None].expand(-1, -1, own.shape[2]))[:, None])

        facts = StageFacts(
            index=self.done,
            layer=layer,
            hidden=hidden,
            planned=[counts[self.done] for counts in self.counts],
            prunable=self.prunable,
            attention=attention,
            vision=self.vision,
            frames=self.frames,
            in_front=self.in_front,
            rater_counts=self.rater_counts,
        )
        step = run_stage(plan.method, rows, self.sizes, self._text(), self.others, facts, plan.clock)
        self.counted.append(step.counted(layer, self.sizes))
        self.rows, self.sizes, self.ragged = step.rows, step.sizes, step.ragged
        before = self.stages[-1] if self.stages else None
        self.stages.append(StageTensors.of(layer, step.chosen, self.token, max(self.layout.visual), before))
        self.done += 1
        if self.asked:
            self.spans.append((layer + 1, step.rows))
        self.memo.clear()
        width = step.hidden.shape[1]
        if plan.trim_early and self.done == 1 and width < self.length:
            with plan.clock("cache"):
                self._trim(width)
        if plan.keep_trace:
            self.trace += [Trace(x.stage, x.selection, step.rows) for x in step.chosen]
        return unfold(step.hidden, shaped)

    def _trim(self, width: int) -> None:
        """Let the layers up to the first stage forget what it dropped: they are not run again before decoding."""
        assert self.rows is not None
        stays = torch.zeros(self.batch, self.length + 1, dtype=torch.bool, device=self.device)
        target = self.rows.source.masked_fill(~self.rows.valid, self.length)
        stays.scatter_(1, target, True)
        stand_for = self.rows.multiplicity
        if stand_for is not None:
            every = torch.ones(self.batch, self.length + 1, device=self.device)
            stand_for = every.scatter_(1, target, stand_for)[:, :-1]
        for kind in self.plan.kinds[: self.plan.stages[0] + 1]:
            if self.cache is not None and kind.attends and kind.source == kind.index:
                layer = make_pruned(self.cache, kind.index)
                layer.drop(self.past, stays[:, :-1], width, self.ragged, stand_for)

    def _positions(self, rows: Rows) -> Tensor:
        """Rotary positions [b, n] (or [axes, b, n]) of the current rows at the layer that just ran."""
        if self.plan.method.positions == "compact" and self.done:
            assert self.renumbered is not None  # by the layer that just ran
            return self.renumbered
        return positions_of(self.plan.decoder, rows, self.position_ids, self.past)

    def _text(self) -> tuple[TextRows, ...]:
        """The scoring text among the current rows; once raters are chosen, what the next stage reads of it."""
        rows, plan, counts = self.rows, self.plan, self.rater_counts
        assert rows is not None
        every: tuple[TextRows, ...] = self.once("text", None, lambda _: TextRows.of(rows, self.sizes))
        # A trace shows all text.
        if not counts or plan.keep_trace or plan.method.rows_read_at(self.done) == "text":
            return every

        def raters(_: Any) -> tuple[TextRows, ...]:
            return tuple(text.raters(rows, count) for text, count in zip(every, counts, strict=True))

        made: tuple[TextRows, ...] = self.once("raters", None, raters)
        return made
