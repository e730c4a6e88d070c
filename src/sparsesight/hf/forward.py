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
from ..budget import Schedule
from ..errors import SparseSightError
from ..methods.base import Counts, StageInput, planned_counts
from ..methods.rows import Rows, advance
from .cache import PrunedDynamicLayer, held_keys, make_pruned, pruned_layer
from .families import inverse_frequencies
from .layout import Layout, Plan, Record, Trace
from .masks import mask_of_rows, select_mask

# Layer arguments that are not per-row tensors and must never be shortened.
NOT_ROWS = {"attention_mask", "past_key_values", "past_key_value", "use_cache", "hidden_states"}


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
    kept: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    trace: list[Trace] = field(default_factory=list)
    seen: tuple[Tensor, Tensor, Tensor, Tensor, Any, dict[str, Any]] | None = None  # what the probe saw last
    memo: dict[Any, Any] = field(default_factory=dict)

    # -- start ------------------------------------------------------------------------------------------------

    def activate(self, layout: Layout, embeddings: Tensor) -> None:
        """Plan the stages and choose the raters.

        Raises:
            BudgetError: if a sample's visual tokens cannot meet the budget; nothing has been computed yet.
        """
        plan = self.plan
        schedules = []
        for visual, prunable in zip(layout.visual, layout.prunable, strict=True):
            fixed = Schedule(visual, plan.num_layers, ())
            planned = prunable and not plan.method.data_dependent
            schedules.append(plan.method.plan(visual, plan.num_layers, plan.stages) if planned else fixed)
        self.layout = layout
        self.tokens = layout.visual
        self.past_keys = held_keys(self.cache, plan.num_layers)
        if not any(layout.prunable) or not (plan.method.data_dependent or any(s.stages for s in schedules)):
            return
        if not plan.method.data_dependent:
            self.counts = planned_counts(schedules, len(plan.stages), self.device)
        with plan.clock("raters"), torch.no_grad():
            rows = layout.rows
            visual_at, is_visual = ops.compact(rows.visual, max(layout.visual))
            text_at, is_text = ops.compact(rows.text, max(layout.text))
            chosen = plan.method.rate(
                ops.take(embeddings, visual_at), ops.take(embeddings, text_at), is_visual, is_text
            )
            # Scatter the choice back; padding points at other rows and must not clear them.
            target = text_at.masked_fill(~is_text, self.length)
            rater = torch.zeros(self.batch, self.length + 1, dtype=torch.bool, device=self.device)
            rater = rater.scatter_(1, target, chosen)[:, :-1]
        self.prunable = torch.tensor(layout.prunable).to(self.device, non_blocking=True)
        self.rows = replace(rows, rater=rater)

    @property
    def active(self) -> bool:
        """Whether this forward prunes."""
        return self.rows is not None

    # -- inside the layers ------------------------------------------------------------------------------------

    def observe(self, layer: int, query: Tensor, key: Tensor, mask: Any, kwargs: dict[str, Any]) -> None:
        """Take what the next stage needs from a pruning layer's attention."""
        expected = self.plan.stages[self.done] if self.done < len(self.plan.stages) else None
        if self.rows is None or self.layout is None or layer != expected:
            return
        with self.plan.clock("scoring"), torch.no_grad():
            row, valid = ops.compact(self.rows.text, max(self.layout.text))
            rater = self.rows.rater.gather(1, row) & valid
            index = row[:, None, :, None].expand(-1, query.shape[1], -1, query.shape[3])
            self.seen = (row, rater, query.gather(2, index), key, mask, kwargs)

    def enter(
        self, layer: int, hidden: Tensor, kwargs: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Any]] | None:
        """Inputs of a layer, rewritten for the rows that are left; None if nothing changes."""
        if self.cache is None:  # the decoder makes its own where it is given none
            self.cache = kwargs.get("past_key_values")
        if (
            self.rows is not None
            and self.done < len(self.plan.stages)
            and layer == self.plan.stages[self.done] + 1
        ):
            hidden = self._prune(hidden)
        if self.rows is None:
            known = pruned_layer(self.cache, layer)
            return None if known is None else self._serve(known, layer, hidden, kwargs)
        if not self.done:
            return None
        with self.plan.clock("masks"):
            source = self.rows.source
            changed = {
                k: v if k in NOT_ROWS else self._once(k, v, lambda v: take_rows(v, source, self.length))
                for k, v in kwargs.items()
            }
            row, slot, valid = self.rows.slot, self.rows.slot + self.past, self.rows.valid
            ragged = self.ragged
            before: Tensor | int = 0
            if self.cache is not None:
                cached = make_pruned(self.cache, layer)
                if cached.held or cached.physical_length():
                    slot, valid, before = self._once("keys", None, lambda _: _extend(cached, slot, valid))
                    ragged = ragged or cached.ragged
                cached.note(slot, valid, self.past + self.length, ragged)
            self._finish(changed, hidden, kwargs, row, slot, valid, ragged, before)
        return hidden, changed

    def leave(self, hidden: Tensor) -> Tensor:
        """The last layer's output at the length of the input; rows of dropped tokens are zero."""
        if self.rows is None or not self.done:
            return hidden
        with self.plan.clock("gather"):
            target = self.rows.source.masked_fill(~self.rows.valid, self.length)
            full = hidden.new_zeros(self.batch, self.length + 1, hidden.shape[2])
            return full.scatter(1, target[..., None].expand_as(hidden), hidden)[:, :-1]

    def finish(self) -> Record | None:
        """What to remember of a prefill; None for other forwards."""
        if self.layout is None:
            return None
        return Record(
            self.layout,
            self.length,
            self.past_keys,
            tuple(self.tokens_out),
            tuple(self.recycled),
            tuple(self.kept),
            self.trace,
        )

    # -- parts ------------------------------------------------------------------------------------------------

    def _serve(
        self, cached: PrunedDynamicLayer, layer: int, hidden: Tensor, kwargs: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Any]] | None:
        """A forward without pruning (decoding, a text-only turn) over a cache that was pruned before."""
        compact = self.plan.method.positions == "compact"
        if kwargs.get("attention_mask") is None and not cached.ragged and not compact:
            return None
        with self.plan.clock("masks"):
            segment = sum(layer > p for p in self.plan.stages)

            def keys(_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
                row = torch.arange(self.length, device=self.device).expand(self.batch, -1)
                return row, *_extend(cached, row + self.past, torch.ones_like(row, dtype=torch.bool))

            row, slot, valid, before = self._once(("keys", segment), None, keys)
            changed = dict(kwargs)
            self._finish(changed, hidden, kwargs, row, slot, valid, cached.ragged, before, segment)
        return hidden, changed

    def _finish(
        self,
        changed: dict[str, Any],
        hidden: Tensor,
        kwargs: dict[str, Any],
        row: Tensor,
        slot: Tensor,
        valid: Tensor,
        ragged: bool,
        before: Tensor | int,
        segment: int | None = None,
    ) -> None:
        """Mask and positions, made once per segment."""
        plan = self.plan
        if "attention_mask" in kwargs:
            changed["attention_mask"] = self._once(
                ("mask", segment),
                kwargs["attention_mask"],
                lambda m: select_mask(m, row, slot, valid, ragged=ragged, past=self.past, flash=plan.flash),
            )
        if plan.method.positions == "compact":
            fine = self.rows.valid if self.rows is not None else torch.ones_like(row, dtype=torch.bool)

            def renumber(_: Any) -> tuple[Tensor, Any]:
                position = (fine.cumsum(1) - 1).clamp(min=0) + before
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
        if self.seen is None:
            raise SparseSightError(
                f"decoder layer {plan.stages[self.done]} did not call its attention as expected"
            )
        row, rater, query, key, mask, kwargs = self.seen
        self.seen = None
        column, visual = ops.compact(rows.visual, max(self.tokens))
        offset = key.shape[2] - hidden.shape[1]
        position = self._positions(rows)
        with plan.clock("scoring"):
            stage = StageInput(
                index=self.done,
                layer=plan.stages[self.done],
                planned=self.counts[self.done] if self.counts else None,
                visual=visual,
                prunable=self.prunable,
                origin=rows.origin.gather(1, column),
                hidden=hidden,
                column=column,
                rater=rater,
                query=query,
                key=key,
                mask=mask_of_rows(mask, row, offset, key.shape[2]),
                key_column=column + offset,
                query_position=_pick(position, row),
                key_position=torch.cat(
                    (position[..., :1].expand(*position.shape[:-1], offset), position), -1
                ),
                inv_freq=inverse_frequencies(plan.decoder),
                scale=kwargs.get("scaling") or query.shape[-1] ** -0.5,
                softcap=kwargs.get("softcap"),
            )
            selection = plan.method.select(stage)
        with plan.clock("gather"):
            out = selection.counts.tokens_out
            lengths = [n - v + o for n, v, o in zip(layout.length, layout.visual, out, strict=True)]
            width = max(lengths)
            self.rows, shorter = advance(rows, stage, selection, width, plan.method.positions == "compact")
        self.ragged = min(lengths) < width
        self.tokens = out
        self.tokens_out.append(out)
        self.recycled.append(selection.counts.recycled)
        self.kept.append((stage.origin, selection.keep))
        self.done += 1
        self.memo.clear()
        if plan.keep_trace:
            self.trace.append(Trace(stage, selection, self.rows))
        return shorter

    def _positions(self, rows: Rows) -> Tensor:
        """Rotary positions [b, n] (or [axes, b, n]) of the current rows at the layer that just ran."""
        if self.plan.method.positions == "compact" and self.done:
            return self.memo["positions", None][1][0]
        given = self.position_ids
        if given is None:
            return rows.source + self.past
        return _pick(given.expand(*given.shape[:-2], self.batch, -1), rows.source)

    def _once(self, key: Any, value: Any, make: Callable[[Any], Any]) -> Any:
        """``make(value)``, computed once per segment and value."""
        key = (key, id(value)) if value is not None else key
        if key not in self.memo:
            self.memo[key] = (value, make(value))  # holding `value` keeps its id unique
        return self.memo[key][1]


def _extend(cached: PrunedDynamicLayer, slot: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Slots and validity of the keys cached before plus the new ones, and how many valid keys came before [b, 1]."""
    old, fine = cached.key_slots(slot.shape[0], slot.device)
    return torch.cat((old, slot), 1), torch.cat((fine, valid), 1), fine.sum(1, keepdim=True)


def _pick(position: Tensor, row: Tensor) -> Tensor:
    """Positions [b, n] or [axes, b, n] at rows [b, m]."""
    return position.gather(-1, row.expand(*position.shape[:-2], *row.shape))


def take_rows(value: Any, source: Tensor, length: int) -> Any:
    """Select rows of anything with a sequence axis of ``length``: [b, n, ...] or [axes, b, n, ...], b or 1 of them.

    Other values are returned as they are; tuples and lists are searched.
    """
    if isinstance(value, (tuple, list)):
        return type(value)(take_rows(x, source, length) for x in value)
    if not isinstance(value, Tensor):
        return value
    b = source.shape[0]
    if value.ndim >= 2 and value.shape[1] == length and value.shape[0] in (1, b):
        return ops.take(value.expand(b, *value.shape[1:]), source)
    if value.ndim >= 3 and value.shape[2] == length and value.shape[1] in (1, b):
        return torch.stack([take_rows(x, source, length) for x in value])
    return value
