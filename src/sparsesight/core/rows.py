"""The rows a decoder still computes on, and how a selection shortens them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import ops
from .stage import Selection, StageInput

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


@dataclass(frozen=True)
class Rows:
    """Bookkeeping of the current rows; all [b, n].

    ``source`` is the row of the unpruned input that a row stands for (a merged token: its cluster centre). ``slot``
    is the place it takes in masks; it differs from ``source`` only where merged tokens were moved behind the kept
    ones, so that causality follows the order of the rows. Filler rows are invalid and point at an existing row.
    """

    source: Int[Tensor, "b n"]
    slot: Int[Tensor, "b n"]
    valid: Bool[Tensor, "b n"]
    visual: Bool[Tensor, "b n"]
    text: Bool[Tensor, "b n"]  # text that follows the last visual token
    rater: Bool[Tensor, "b n"]
    origin: Int[Tensor, "b n"]  # index among the sample's visual tokens; -1: text or merged

    @classmethod
    def start(
        cls,
        valid: Bool[Tensor, "b n"],
        visual: Bool[Tensor, "b n"],
        prompt: int | Int[Tensor, " b"] | None = None,
    ) -> Rows:
        """All rows of a forward; ``visual`` must lie within ``valid``. Nothing rates yet.

        Rows from column ``prompt`` on (of all samples, or of each) do not belong to the prompt: they are neither visual
        nor text that may rate.
        """
        end = valid.shape[1] if prompt is None else prompt
        asked = torch.arange(valid.shape[1], device=valid.device) < (
            end[:, None] if isinstance(end, Tensor) else end
        )
        visual = visual & asked
        row = torch.arange(valid.shape[1], device=valid.device).expand_as(valid)
        last = torch.where(visual, row, -1).amax(1, keepdim=True)
        text = valid & asked & ~visual & (row > last) & (last >= 0)
        origin = torch.where(visual, visual.cumsum(1) - 1, -1)
        return cls(row, row, valid, visual, text, torch.zeros_like(text), origin)


def advance(
    rows: Rows, stage: StageInput, selection: Selection, length: int, move_merged: bool
) -> tuple[Rows, Float[Tensor, "b m c"]]:
    """Apply a selection: the rows that go on, and their hidden states; right-aligned, ``length`` wide.

    Rows that are not visual always stay. A merged token takes its cluster centre's row, and with ``move_merged`` is
    moved behind the last visual row (the published order).
    """
    n = rows.valid.shape[1]
    column = torch.where(stage.visual, stage.column, n)  # padding writes to a scratch row
    kept = _scatter_true(column.masked_fill(~selection.keep, n), n)
    hidden, origin, order = stage.hidden, rows.origin, None
    if selection.merge is not None and selection.recycled is not None:
        tokens, centre, _, exists = selection.merge
        at = stage.column.gather(1, selection.recycled.gather(1, centre)).masked_fill(~exists, n)
        kept = kept | _scatter_true(at, n)
        wide = torch.cat((hidden, hidden[:, :1]), 1)
        hidden = wide.scatter(1, at[..., None].expand_as(tokens), tokens.to(hidden.dtype))[:, :n]
        pad = torch.nn.functional.pad
        origin = pad(origin, (0, 1)).scatter(1, at, -1)[:, :n]
        if move_merged:
            step = at.shape[1] + 1
            row = torch.arange(n, device=at.device)
            behind = torch.where(rows.visual, row, 0).amax(1, keepdim=True) * step
            behind = behind + torch.arange(1, step, device=at.device)
            order = pad((row * step).expand(at.shape[0], -1), (0, 1)).scatter(1, at, behind)[:, :n]
    index, valid = ops.compact(rows.valid & (kept | ~rows.visual), length, order)
    slot = source = rows.source.gather(1, index)
    if order is not None or rows.slot is not rows.source:
        slot = rows.slot.gather(1, index)
        slot = torch.where(valid, slot, -1).sort(dim=1).values.clamp(min=0)
    rows = Rows(
        source,
        slot,
        valid,
        rows.visual.gather(1, index) & valid,
        rows.text.gather(1, index) & valid,
        rows.rater.gather(1, index) & valid,
        origin.gather(1, index),
    )
    return rows, ops.gather_rows(hidden, index)


def _scatter_true(index: Int[Tensor, "b v"], n: int) -> Bool[Tensor, "b n"]:
    """True at ``index``; index ``n`` is a scratch column."""
    out = torch.zeros(index.shape[0], n + 1, dtype=torch.bool, device=index.device)
    return out.scatter_(1, index, True)[:, :n]
