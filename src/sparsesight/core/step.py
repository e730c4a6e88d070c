"""The steps of every host at a stage: choose raters -> score -> select -> shorten.

A *region* is the visual tokens of one turn of a chat, or of one packed document, with the text that scores them and its
own budget. Usually a sample is one region. The regions of a sample are numbered in their order; the method gets those
with the same number together, one per sample, so that a method always sees a batch of samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from .. import ops
from .budget import Stage
from .host_count import HostCount, most_rows
from .method import Method
from .rows import RegionSizes, Rows, advance
from .stage import Attention, Counts, Selection, StageInput, Vision

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

Clock = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True)
class TextRows:
    """The scoring text of the regions with one number, or the raters among it, compacted."""

    column: Int[Tensor, "b r"]  # row of the hidden states
    valid: Bool[Tensor, "b r"]  # False on padding

    @classmethod
    def of(cls, rows: Rows, sizes: Sequence[RegionSizes]) -> tuple[TextRows, ...]:
        """Per region number."""
        return tuple(cls(*ops.compact(rows.of(i)[1], max(size.text))) for i, size in enumerate(sizes))

    def raters(self, rows: Rows, count: HostCount | None) -> TextRows:
        """The raters alone, if their ``count`` has arrived; else, or if they are no fewer, all of it."""
        most = None if count is None else count.read()
        if most is None or most >= self.column.shape[1]:
            return self
        index, valid = ops.compact(rows.rater.gather(1, self.column) & self.valid, max(most, 1))
        return TextRows(self.column.gather(1, index), valid)


def choose_raters(
    method: Method,
    rows: Rows,
    sizes: Sequence[RegionSizes],
    text: Sequence[TextRows],
    hidden: Float[Tensor, "b n c"],
) -> tuple[Rows, tuple[HostCount | None, ...]]:
    """The rows with their raters, from the input of the first layer, and the rater counts per region number."""
    counts: list[HostCount | None] = []
    rater = torch.nn.functional.pad(torch.zeros_like(rows.text), (0, 1))
    for i, (size, judges) in enumerate(zip(sizes, text, strict=True)):
        if not max(size.text):
            counts.append(None)  # no text scores any of these
            continue
        column, is_visual = ops.compact(rows.of(i)[0], max(size.visual))
        chosen = method.select_raters(
            ops.gather_rows(hidden, column), ops.gather_rows(hidden, judges.column), is_visual, judges.valid
        )
        counts.append(most_rows(chosen))
        # Padding points at other rows, and must not clear them: it writes to a scratch column.
        target = judges.column.masked_fill(~judges.valid, rows.text.shape[1])
        rater = rater.scatter_(1, target, chosen)
    return replace(rows, rater=rater[:, :-1]), tuple(counts)


@dataclass(frozen=True)
class StageFacts:
    """The data that a host provides for one stage; sequences have one entry per region number.

    Attributes:
        index: which stage, from 0.
        layer: decoder layer after which it prunes, -1 before the first.
        hidden: all rows that would enter the next layer.
        planned: counts of the schedules; empty if counts depend on the data.
        prunable: boolean [b] each, whether a sample has such a region with text to score it.
        attention: ``attention(i, text, column)`` is the pruning layer's attention, with the queries of the text rows of
            region number ``i`` and the visual tokens in the rows ``column``; None before the first layer, and where the
            method reads none.
        vision: the vision tower's data for each row of the input, if the method requires it.
        frames: the frame of each row of the input, and that frame's number of tokens, if the method requires it.
        in_front: boolean [b] each, whether the scoring text comes before the picture; empty if none does.
        rater_counts: the numbers of raters, on their way to the host; empty if none were selected.
    """

    index: int
    layer: int
    hidden: Float[Tensor, "b n c"]
    planned: Sequence[Counts]
    prunable: Sequence[Bool[Tensor, " b"]]
    attention: Callable[[int, TextRows, Int[Tensor, "b v"]], Attention | None]
    vision: Vision | None = None
    frames: tuple[Int[Tensor, "b i"], Int[Tensor, "b i"]] | None = None
    in_front: Sequence[Bool[Tensor, " b"]] = ()
    rater_counts: Sequence[HostCount | None] = ()


class Chosen(NamedTuple):
    """The method's input and selection for the regions with one number."""

    stage: StageInput
    selection: Selection
    source: Int[Tensor, "b v"]  # row of the input of each visual token


@dataclass(frozen=True)
class StageResult:
    """The result of a stage.

    Attributes:
        rows: the remaining rows.
        hidden: their hidden states.
        sizes: of the regions after the stage.
        tokens_out: remaining visual tokens per sample.
        ragged: whether samples have different numbers of remaining rows.
        chosen: per region number.
    """

    rows: Rows
    hidden: Float[Tensor, "b m c"]
    sizes: tuple[RegionSizes, ...]
    tokens_out: tuple[int, ...]
    ragged: bool
    chosen: tuple[Chosen, ...]

    def counted(self, layer: int, before: Sequence[RegionSizes]) -> tuple[tuple[Stage, ...], ...]:
        """The counts of the stage per region number and sample, of regions that had these sizes before."""
        return tuple(
            tuple(
                Stage(layer, tokens, out - merged, recycled, merged)
                for tokens, out, recycled, merged in zip(
                    size.visual, counts.tokens_out, counts.recycled, counts.merged, strict=True
                )
            )
            for size, counts in zip(before, (x.selection.counts for x in self.chosen), strict=True)
        )


def run_stage(
    method: Method,
    rows: Rows,
    sizes: Sequence[RegionSizes],
    text: Sequence[TextRows],
    others: Sequence[int],
    facts: StageFacts,
    clock: Clock = lambda _: nullcontext(),
) -> StageResult:
    """Run the method on its regions, and apply its selection.

    Args:
        method: the method.
        rows: before the stage.
        sizes: of the regions before the stage, per number.
        text: their scoring text.
        others: number of rows of each sample that are not visual.
        facts: the host's data.
        clock: measures the parts "scoring", "selection" and "gather".
    """
    chosen: list[Chosen] = []
    device = facts.hidden.device
    for i, size in enumerate(sizes):
        column, visual = ops.compact(rows.of(i)[0], max(size.visual))
        judges, count = text[i], facts.rater_counts[i] if facts.rater_counts else None
        source = rows.source.gather(1, column)
        frame, frame_tokens = (x.gather(1, source) for x in facts.frames) if facts.frames else (None, None)
        stand_for = None if rows.multiplicity is None else rows.multiplicity.gather(1, column)
        with clock("scoring"), torch.no_grad(), in_full(device):
            at = facts.attention(i, judges, column)
            if at is not None and facts.in_front:
                at = at.seeing(facts.in_front[i], visual, stand_for)
            stage = StageInput(
                index=facts.index,
                layer=facts.layer,
                planned=facts.planned[i] if facts.planned else None,
                visual=visual,
                prunable=facts.prunable[i],
                origin=rows.origin.gather(1, column),
                hidden=facts.hidden,
                column=column,
                text=judges.valid,
                text_column=judges.column,
                rater=rows.rater.gather(1, judges.column) & judges.valid,
                at=at,
                vision=None if facts.vision is None else facts.vision.at(source, visual),
                frame=frame,
                frame_tokens=frame_tokens,
                rater_count=count.read() if count is not None else None,
                multiplicity=stand_for,
            )
            score = method.score(stage) if max(size.text) else visual.new_zeros(visual.shape).float()
        with clock("selection"), in_full(device):
            decided = method.select_from_scores(stage, score) if max(size.text) else _all(stage, size, score)
            decided = decided._replace(multiplicity=method.multiplicity(stage, decided))
            chosen.append(Chosen(stage, decided, source))
    with clock("gather"):
        after = tuple(
            RegionSizes(x.selection.counts.tokens_out, size.text)
            for x, size in zip(chosen, sizes, strict=True)
        )
        out = tuple(map(sum, zip(*(size.visual for size in after), strict=True)))
        lengths = [n + o for n, o in zip(others, out, strict=True)]
        width = max(lengths)
        rows, hidden = advance(rows, [x[:2] for x in chosen], width, method.positions == "compact")
    return StageResult(rows, hidden, after, out, min(lengths) < width, tuple(chosen))


def _all(stage: StageInput, size: RegionSizes, score: Tensor) -> Selection:
    """Keep every token, where no text scores them."""
    nothing = (0,) * len(size.visual)
    keep = stage.visual.sum(1)
    return Selection(stage.visual, score, Counts(keep, torch.zeros_like(keep), nothing, nothing, size.visual))


def in_full(device: torch.device) -> torch.autocast:
    """A context that computes scores in fp32 even under autocast."""
    return torch.autocast(device.type, enabled=False)
