"""The inputs of a layer for the remaining rows: hidden states, per-row arguments, keys, mask and positions.

What several layers of a segment share is made once (:meth:`SegmentInputs.once`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..core.rows import Rows
from .cache import CACHE_NAMES, make_pruned, pruned_layer
from .masks import select_mask
from .model_parts import Layer
from .prompt.layout import Layout, Plan
from .pruned_layer import PrunedLayer

# Layer arguments that are not per-row tensors and must never be shortened.
NOT_ROWS = {
    "attention_mask",
    *CACHE_NAMES,
    "past_key_value",
    "use_cache",
    "hidden_states",
    "shared_kv_states",
}
# What a caller may say of the lengths of packed documents, for FlashAttention.
PACKED = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")


@dataclass(frozen=True)
class Keys:
    """The keys that layers of one kind see within a segment."""

    slot: Tensor  # [b, k] logical index
    valid: Tensor  # [b, k] False for filler
    ragged: bool  # whether there is filler
    before: Tensor | int  # how many of them were there before this forward: [b, 1]
    multiplicity: Tensor | None = None  # float32 [b, k], how many tokens each stands for; None: one each

    @classmethod
    def of(cls, cached: PrunedLayer, new: Keys) -> Keys:
        """Those cached before, and the new ones."""
        old, fine = cached.key_slots(new.slot.shape[0], new.slot.device)
        parts = (cached.key_multiplicity(), old), (new.multiplicity, new.slot)
        each = None
        if any(m is not None for m, _ in parts):
            each = torch.cat([fine.new_ones(x.shape).float() if m is None else m for m, x in parts], 1)
        slot, valid = torch.cat((old, new.slot), 1), torch.cat((fine, new.valid), 1)
        return cls(slot, valid, new.ragged or cached.ragged, fine.sum(1, keepdim=True), each)


@dataclass
class SegmentInputs:
    """The rows that a forward computes on now, and what the layers of a segment share.

    Attributes:
        plan: of the sparsification.
        cache: of this forward; None without one.
        past: logical tokens cached before.
        length, batch: of the input.
        device: that the decoder starts on.
        position_ids: as the decoder was given them.
        layout: of the prompt; None: nothing to prune, only pruned caches to serve.
        rows: that go on; None where nothing is pruned.
        ragged: whether the current rows contain filler.
        asked: whether hidden states or attentions are to be returned.
        memo: what is made once per segment; see :meth:`once`.
        keys: the keys of layers that attend to a part of them; kept only if outputs are to be returned.
        renumbered: positions [b, n] of the current rows, where they are numbered anew.
    """

    plan: Plan
    cache: Any
    past: int
    length: int
    batch: int
    device: torch.device
    position_ids: Tensor | None
    layout: Layout | None = None
    rows: Rows | None = None
    ragged: bool = False
    asked: bool = True
    memo: dict[Any, Any] = field(default_factory=dict)
    keys: dict[int, Keys] = field(default_factory=dict)
    renumbered: Tensor | None = None

    def once(self, key: Any, value: Any, make: Callable[[Any], Any]) -> Any:
        """``make(value)``, computed once per segment and value."""
        key = (key, id(value)) if value is not None else key
        if key not in self.memo:
            self.memo[key] = (value, make(value))  # holding `value` keeps its id unique
        return self.memo[key][1]

    def document_of(self, rows: Rows) -> Tensor | None:
        """Number of the packed document that each row is of, [b, n]; None if nothing is packed."""
        document = None if self.layout is None else self.layout.document
        return None if document is None else document.gather(1, rows.source)

    def keys_of(self, layer: int) -> Keys | None:
        """The keys that ``layer`` attended to; None if nothing was dropped from them. After that layer has run."""
        if layer in self.keys:
            return self.keys[layer]
        cached = pruned_layer(self.cache, self.plan.kinds[layer].source)
        if cached is None:
            return None
        return Keys(*cached.key_slots(self.batch, self.device), cached.ragged, 0)

    def of_rows_left(self, kind: Layer, hidden: Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a layer after a stage, in place of ``kwargs``; notes the coming keys in its cache."""
        with self.plan.clock("masks"):
            keys = self._keys(kind) if kind.attends else None
            if keys is not None and self.asked:
                self.keys[kind.index] = keys
            # Mostly, layers of a kind are all given the same.
            place = ("arguments", kind.kind, kind.attends, hidden.shape[-2])
            before = self.memo.get(place)
            if before is None or not same_arguments(before[0], kwargs):
                before = self.memo[place] = (kwargs, self._fresh(kind, keys, hidden, kwargs))
            return dict(before[1])

    def of_pruned_cache(
        self, cached: PrunedLayer, kind: Layer, hidden: Tensor, kwargs: dict[str, Any]
    ) -> dict[str, Any] | None:
        """The same in a forward that prunes nothing (decoding, a text-only turn); None if nothing changes."""
        compact = self.plan.method.positions == "compact"
        plain = not cached.ragged and not compact and cached.multiplicity is None
        needless = kwargs.get("attention_mask") is None and plain
        if needless and not self.asked:
            return None
        with self.plan.clock("masks"):
            segment = sum(kind.index > p for p in self.plan.stages)
            row = torch.arange(self.length, device=self.device).expand(self.batch, -1)

            def make(_: Any) -> Keys:
                return Keys.of(
                    cached, Keys(row + self.past, torch.ones_like(row, dtype=torch.bool), False, 0)
                )

            keys = self.once(("keys", segment, kind.kind), None, make)
            if self.asked:
                self.keys[kind.index] = keys
            if needless:
                return None
            changed = dict(kwargs)
            # As in a prefill, a decoder may go on with its last rows where no later layer needs keys of the others.
            left = row if hidden.shape[-2] == self.length else row[:, -hidden.shape[-2] :]
            self._finish(changed, hidden, kwargs, left, keys, kind, segment)
        return changed

    def _fresh(
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
            k: v if k in fixed else self.once(k, v, lambda v: take_rows(v, source, self.length))
            for k, v in kwargs.items()
        }
        if keys is not None:
            self._finish(changed, hidden, kwargs, self.rows.slot[:, -rows:], keys, kind)
        else:
            changed["attention_mask"] = self.once(
                "padding", kwargs.get("attention_mask"), lambda mask: self._padding(mask)
            )
        return changed

    def _keys(self, kind: Layer) -> Keys:
        """The keys a layer sees, from its cache if there is one; noted there if the layer is to store them."""
        rows = self.rows
        assert rows is not None
        with self.plan.clock("cache"):
            cached = make_pruned(self.cache, kind.source) if self.cache is not None else None

            def keys(_: Any) -> Keys:
                new = Keys(rows.slot + self.past, rows.valid, self.ragged, 0, rows.multiplicity)
                return new if cached is None or not cached.physical_length() else Keys.of(cached, new)

            seen: Keys = self.once(("keys", kind.kind), None, keys)
            if cached is not None and kind.source == kind.index:
                end = self.past + self.length
                cached.note(seen.slot, seen.valid, end, seen.ragged, seen.multiplicity)
        return seen

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
        document = None if self.rows is None else self.document_of(self.rows)
        if "attention_mask" in kwargs:
            changed["attention_mask"] = self.once(
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
                    multiplicity=keys.multiplicity,
                    dtype=hidden.dtype,
                ),
            )
        if plan.method.positions == "compact" and kind.index > plan.stages[0]:
            fine = self.rows.valid if self.rows is not None else torch.ones_like(row, dtype=torch.bool)

            def renumber(_: Any) -> tuple[Tensor, Any]:
                position = (fine.cumsum(1) - 1).clamp(min=0) + keys.before
                if document is not None:
                    position = _anew(position, document, fine)
                self.renumbered = position
                return position, plan.decoder.rotary_emb(hidden, position)  # type: ignore[operator]

            changed["position_ids"], changed["position_embeddings"] = self.once(
                ("positions", segment), None, renumber
            )
        if plan.flash and changed.get("position_ids") is not None:
            # Gapped positions of a single sample would be taken for a packed sequence.
            changed["position_ids"] = None
        if plan.flash and document is not None and self.rows is not None:
            # Documents are separated by positions that start again; the lengths that were given no longer hold.
            fine, place = self.rows.valid, self.rows.valid.cumsum(1) - 1
            changed["position_ids"] = self.once("documents", None, lambda _: _anew(place, document, fine))
            changed.update((name, None) for name in PACKED if name in changed)

    def _padding(self, mask: Any) -> Any:
        """The mask of a layer without attention: which of its rows are tokens."""
        assert self.rows is not None
        if mask is None:
            return self.rows.valid if self.ragged else None
        return (take_rows(mask, self.rows.source, self.length).bool() & self.rows.valid).to(mask.dtype)


def _anew(position: Tensor, document: Tensor, valid: Tensor) -> Tensor:
    """Positions [b, n] that count every document [b, n] from 0; padding stands on the left."""
    first = torch.ones_like(valid)
    first[:, 1:] = document[:, 1:] != document[:, :-1]
    return position - torch.where(first & valid, position, 0).cummax(1).values


def fold(hidden: Tensor) -> Tensor:
    """Hidden states as [b, n, c]; a decoder that carries several streams [s, b, n, c] has them side by side in c."""
    return hidden if hidden.ndim == 3 else hidden.permute(1, 2, 0, 3).flatten(2)


def unfold(hidden: Tensor, like: Tensor) -> Tensor:
    """The streams of ``like`` again."""
    return hidden if like.ndim == 3 else hidden.unflatten(2, (like.shape[0], -1)).permute(2, 0, 1, 3)


def pick(position: Tensor, row: Tensor) -> Tensor:
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
        return ops.gather_rows(value.expand(b, *value.shape[1:]), source)
    if value.ndim >= 3 and value.shape[2] == length and value.shape[1] in (1, b):
        return torch.stack([take_rows(x, source, length) for x in value])
    return value


def same_arguments(given: dict[str, Any], kwargs: dict[str, Any]) -> bool:
    """Whether two layers are given the same objects, or equal plain values."""
    return given.keys() == kwargs.keys() and all(
        kwargs[k] is v or (isinstance(v, (int, float, str)) and kwargs[k] == v) for k, v in given.items()
    )
