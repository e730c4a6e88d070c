"""The rows that a decoder still computes, and how a selection shortens them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from .. import ops
from .stage import Selection, StageInput

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


class RegionSizes(NamedTuple):
    """Numbers of visual and of scoring text tokens of the regions with one number, per sample."""

    visual: tuple[int, ...]
    text: tuple[int, ...]


@dataclass(frozen=True)
class Rows:
    """Bookkeeping of the current rows; all [b, n].

    ``source`` is the row of the unpruned input that a row stands for (for a merged token, its cluster centre). ``slot``
    is its position in masks; it differs from ``source`` only if merged tokens were moved after the kept ones, so that
    causality follows the order of the rows. Padding rows are invalid and point at an existing row.
    """

    source: Int[Tensor, "b n"]
    slot: Int[Tensor, "b n"]
    valid: Bool[Tensor, "b n"]
    visual: Bool[Tensor, "b n"]
    text: Bool[Tensor, "b n"]  # scoring text: the text after the last visual token of its region
    rater: Bool[Tensor, "b n"]
    origin: Int[Tensor, "b n"]  # index among the region's visual tokens; -1: text or merged
    # Number of the region of each visual or scoring row; None: each sample is one region.
    region: Int[Tensor, "b n"] | None = None
    # How many tokens of the prompt a row counts for in attention; None: each row for one.
    multiplicity: Float[Tensor, "b n"] | None = None

    def of(self, number: int) -> tuple[Bool[Tensor, "b n"], Bool[Tensor, "b n"]]:
        """The visual and the scoring text rows of the regions with this number."""
        if self.region is None:
            return self.visual, self.text
        own = self.region == number
        return self.visual & own, self.text & own

    def divided(self, text: Bool[Tensor, "b n"], region: Int[Tensor, "b n"] | None) -> Rows:
        """The same rows of a forward, divided into regions with their scoring text."""
        rows = replace(self, text=text, region=region)
        origin = torch.where(self.visual, rows.since_region(self.origin), -1)
        return replace(rows, origin=origin)

    def since_region(self, number: Int[Tensor, "b n"]) -> Int[Tensor, "b n"]:
        """A number of all rows of a forward less what the first visual row of its region has; text rows mean nothing.

        ``number`` may not fall along the visual rows. So a region is what it is alone.
        """
        if self.region is None:
            return number
        region, most = self.region + 1, torch.iinfo(number.dtype).max
        first = torch.full_like(number, most).scatter_reduce(
            1, region, number.masked_fill(~self.visual, most), "amin"
        )
        return number - first.gather(1, region)

    @classmethod
    def start(
        cls,
        valid: Bool[Tensor, "b n"],
        visual: Bool[Tensor, "b n"],
        prompt: int | Int[Tensor, " b"] | None = None,
    ) -> Rows:
        """All rows of a forward; ``visual`` must lie within ``valid``. There are no raters yet.

        Rows from column ``prompt`` on (for all samples, or for each) do not belong to the prompt: they are neither
        visual nor scoring text.
        """
        asked = prompt_rows(valid, prompt)
        visual = visual & asked
        row = torch.arange(valid.shape[1], device=valid.device).expand_as(valid)
        last = torch.where(visual, row, -1).amax(1, keepdim=True)
        text = valid & asked & ~visual & (row > last) & (last >= 0)
        origin = torch.where(visual, visual.cumsum(1) - 1, -1)
        return cls(row, row, valid, visual, text, torch.zeros_like(text), origin)


def prompt_rows(valid: Bool[Tensor, "b n"], prompt: int | Int[Tensor, " b"] | None) -> Bool[Tensor, "..."]:
    """Which rows come before column ``prompt``, for all samples or for each; broadcastable to [b, n]."""
    end = valid.shape[1] if prompt is None else prompt
    return torch.arange(valid.shape[1], device=valid.device) < (
        end[:, None] if isinstance(end, Tensor) else end
    )


def advance(
    rows: Rows, chosen: Sequence[tuple[StageInput, Selection]], length: int, move_merged: bool
) -> tuple[Rows, Float[Tensor, "b m c"]]:
    """Apply the selections: the remaining rows and their hidden states, right-aligned, ``length`` wide.

    Rows that are not visual always stay. A merged token takes its cluster centre's row, and with ``move_merged`` is
    moved after the last visual row of its region (the published order).

    Args:
        rows: before the stage.
        chosen: the input of the method and its selection, per region number.
        length: the largest number of remaining rows of any sample, known to the host.
        move_merged: whether merged tokens are moved.
    """
    n = rows.valid.shape[1]
    hidden, origin, order = chosen[0][0].hidden, rows.origin, None
    multiplicity, pad = rows.multiplicity, torch.nn.functional.pad
    step = 1 + max((m.merge.centre.shape[1] for _, m in chosen if m.merge is not None), default=0)
    kept = None
    for number, (stage, selection) in enumerate(chosen):
        column = torch.where(stage.visual, stage.column, n)  # padding writes to a scratch row
        own = _scatter_true(column.masked_fill(~selection.keep, n), n)
        kept = own if kept is None else kept | own
        if selection.multiplicity is not None:
            every = (
                torch.ones(rows.valid.shape, device=column.device) if multiplicity is None else multiplicity
            )
            multiplicity = pad(every, (0, 1)).scatter(1, column, selection.multiplicity)[:, :n]
        if selection.merge is None or selection.recycled is None:
            continue
        tokens, centre, _, exists = selection.merge
        at = stage.column.gather(1, selection.recycled.gather(1, centre)).masked_fill(~exists, n)
        kept = kept | _scatter_true(at, n)
        wide = torch.cat((hidden, hidden[:, :1]), 1)
        hidden = wide.scatter(1, at[..., None].expand_as(tokens), tokens.to(hidden.dtype))[:, :n]
        origin = pad(origin, (0, 1)).scatter(1, at, -1)[:, :n]
        if move_merged:
            row = torch.arange(n, device=at.device)
            behind = torch.where(rows.of(number)[0], row, 0).amax(1, keepdim=True) * step
            behind = behind + torch.arange(1, at.shape[1] + 1, device=at.device)
            order = (row * step).expand(at.shape[0], -1) if order is None else order
            order = pad(order, (0, 1)).scatter(1, at, behind)[:, :n]
    assert kept is not None
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
        None if rows.region is None else rows.region.gather(1, index),
        None if multiplicity is None else multiplicity.gather(1, index),
    )
    return rows, ops.gather_rows(hidden, index)


def _scatter_true(index: Int[Tensor, "b v"], n: int) -> Bool[Tensor, "b n"]:
    """True at ``index``; index ``n`` is a scratch column."""
    out = torch.zeros(index.shape[0], n + 1, dtype=torch.bool, device=index.device)
    return out.scatter_(1, index, True)[:, :n]
