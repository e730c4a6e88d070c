"""The arguments of a layer for the rows that are left: per-row tensors, keys, mask and positions that fit.

What several layers of a segment share is made once (:meth:`ForwardState.once`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .cache import PrunedLayer, make_pruned
from .families import Layer
from .masks import select_mask
from .shorten import NOT_ROWS, Keys, same_arguments, take_rows

# What a caller may say of the lengths of packed documents, for FlashAttention.
PACKED = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")

if TYPE_CHECKING:
    from .state import ForwardState


def of_rows_left(
    forward: ForwardState, kind: Layer, hidden: Tensor, kwargs: dict[str, Any]
) -> dict[str, Any]:
    """What a layer behind a stage is given in place of ``kwargs``; its cache is told which keys are to come."""
    with forward.plan.clock("masks"):
        keys = _keys(forward, kind) if kind.attends else None
        if keys is not None and forward.asked:
            forward.keys[kind.index] = keys
        # Mostly, layers of a kind are all given the same.
        place = ("arguments", kind.kind, kind.attends, hidden.shape[-2])
        before = forward.memo.get(place)
        if before is None or not same_arguments(before[0], kwargs):
            before = forward.memo[place] = (kwargs, _fresh(forward, kind, keys, hidden, kwargs))
        return dict(before[1])


def of_pruned_cache(
    forward: ForwardState, cached: PrunedLayer, kind: Layer, hidden: Tensor, kwargs: dict[str, Any]
) -> dict[str, Any] | None:
    """The same in a forward that prunes nothing (decoding, a text-only turn); None if nothing changes."""
    compact = forward.plan.method.positions == "compact"
    needless = kwargs.get("attention_mask") is None and not cached.ragged and not compact
    if needless and not forward.asked:
        return None
    with forward.plan.clock("masks"):
        segment = sum(kind.index > p for p in forward.plan.stages)
        row = torch.arange(forward.length, device=forward.device).expand(forward.batch, -1)

        def make(_: Any) -> Keys:
            return Keys.of(cached, row + forward.past, torch.ones_like(row, dtype=torch.bool), cached.ragged)

        keys = forward.once(("keys", segment, kind.kind), None, make)
        if forward.asked:
            forward.keys[kind.index] = keys
        if needless:
            return None
        changed = dict(kwargs)
        # As in a prefill, a decoder may go on with its last rows where no later layer needs keys of the others.
        left = row if hidden.shape[-2] == forward.length else row[:, -hidden.shape[-2] :]
        _finish(forward, changed, hidden, kwargs, left, keys, kind, segment)
    return changed


def _fresh(
    forward: ForwardState, kind: Layer, keys: Keys | None, hidden: Tensor, kwargs: dict[str, Any]
) -> dict[str, Any]:
    """``kwargs`` of a layer for the rows that are left; ``keys`` are None for one without attention."""
    assert forward.rows is not None
    source = forward.rows.source
    # Some decoders go on with their last rows where no later layer needs keys of the others; all that they
    # pass to those layers is cut already.
    rows = hidden.shape[-2]
    fixed = NOT_ROWS if rows == source.shape[1] else kwargs.keys() - {"position_ids"}
    changed = {
        k: v if k in fixed else forward.once(k, v, lambda v: take_rows(v, source, forward.length))
        for k, v in kwargs.items()
    }
    if keys is not None:
        _finish(forward, changed, hidden, kwargs, forward.rows.slot[:, -rows:], keys, kind)
    else:
        changed["attention_mask"] = forward.once(
            "padding", kwargs.get("attention_mask"), lambda mask: _padding(forward, mask)
        )
    return changed


def _keys(forward: ForwardState, kind: Layer) -> Keys:
    """The keys a layer sees, from its cache if there is one; noted there if the layer is to store them."""
    rows = forward.rows
    assert rows is not None
    with forward.plan.clock("cache"):
        cached = make_pruned(forward.cache, kind.source) if forward.cache is not None else None

        def keys(_: Any) -> Keys:
            slot = rows.slot + forward.past
            if cached is None or not cached.physical_length():
                return Keys(slot, rows.valid, forward.ragged, 0)
            return Keys.of(cached, slot, rows.valid, forward.ragged or cached.ragged)

        seen: Keys = forward.once(("keys", kind.kind), None, keys)
        if cached is not None and kind.source == kind.index:
            cached.note(seen.slot, seen.valid, forward.past + forward.length, seen.ragged)
    return seen


def _finish(
    forward: ForwardState,
    changed: dict[str, Any],
    hidden: Tensor,
    kwargs: dict[str, Any],
    row: Tensor,
    keys: Keys,
    kind: Layer,
    segment: int | None = None,
) -> None:
    """Mask and positions, made once per segment."""
    plan = forward.plan
    document = None if forward.rows is None else forward.document_of(forward.rows)
    if "attention_mask" in kwargs:
        changed["attention_mask"] = forward.once(
            ("mask", segment, kind.kind, row.shape[1]),
            kwargs["attention_mask"],
            lambda m: select_mask(
                m,
                row,
                keys.slot,
                keys.valid,
                ragged=keys.ragged,
                past=forward.past,
                total=forward.past + forward.length,
                flash=plan.flash,
            ),
        )
    if plan.method.positions == "compact" and kind.index > plan.stages[0]:
        fine = forward.rows.valid if forward.rows is not None else torch.ones_like(row, dtype=torch.bool)

        def renumber(_: Any) -> tuple[Tensor, Any]:
            position = (fine.cumsum(1) - 1).clamp(min=0) + keys.before
            if document is not None:
                position = _anew(position, document, fine)
            return position, plan.decoder.rotary_emb(hidden, position)  # type: ignore[operator]

        changed["position_ids"], changed["position_embeddings"] = forward.once(
            ("positions", segment), None, renumber
        )
    if plan.flash and changed.get("position_ids") is not None:
        # Gapped positions of a single sample would be taken for a packed sequence.
        changed["position_ids"] = None
    if plan.flash and document is not None and forward.rows is not None:
        # Documents are told apart by positions that begin anew; what was said of their lengths is no longer true.
        fine, place = forward.rows.valid, forward.rows.valid.cumsum(1) - 1
        changed["position_ids"] = forward.once("documents", None, lambda _: _anew(place, document, fine))
        changed.update((name, None) for name in PACKED if name in changed)


def _anew(position: Tensor, document: Tensor, valid: Tensor) -> Tensor:
    """Positions [b, n] that count every document [b, n] from 0; padding stands on the left."""
    first = torch.ones_like(valid)
    first[:, 1:] = document[:, 1:] != document[:, :-1]
    return position - torch.where(first & valid, position, 0).cummax(1).values


def _padding(forward: ForwardState, mask: Any) -> Any:
    """The mask of a layer without attention: which of its rows are tokens."""
    assert forward.rows is not None
    if mask is None:
        return forward.rows.valid if forward.ragged else None
    return (take_rows(mask, forward.rows.source, forward.length).bool() & forward.rows.valid).to(mask.dtype)
