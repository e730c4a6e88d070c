"""Plain data around a forward: the prompt's layout, what was planned, what is remembered of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...core.facts import RegionFacts
from ...core.method import Method
from ...core.regions import Marks, assign
from ...core.rows import RegionSizes, Rows, prompt_rows
from ...core.stage import Selection, StageInput
from ...core.step import Chosen
from ...profiling.sections import SectionTimer
from ..filled_by import FilledBy
from ..model_parts import Layer, attention_implementation
from .frames import Frames


@dataclass(frozen=True)
class Layout:
    """Where a prompt's visual and text tokens are, and how many; counted once, before the picture is encoded."""

    rows: Rows | None  # until a forward takes them over
    sizes: tuple[RegionSizes, ...]  # per region number (see `core.step`); mostly there is one
    tail: tuple[int, ...]  # at least as many of each sample's last tokens are text
    length: tuple[int, ...]  # all tokens per sample
    frames: Frames
    facts: tuple[tuple[RegionFacts | None, ...], ...] | None = None  # of the regions; None: nothing marks any
    in_front: Sequence[Sequence[bool]] = ()  # per region number and sample; see `Regions`
    document: Tensor | None = None  # [b, n] number of the packed document of each row; None if there is one

    @classmethod
    def of(
        cls, valid: Tensor, frames: Frames, prompt: int | Tensor | None = None, marks: Marks | None = None
    ) -> Layout:
        """``valid`` is boolean [b, n] and holds all of the frames' rows. Waits for the device once, and twice more for
        a prompt in which something marks turns or documents.

        What was generated, or an answer, begins at column ``prompt``: of all samples, or of each [b].
        """
        rows = Rows.start(valid, frames.visual, prompt)
        counted = [rows.visual.sum(1), rows.text.sum(1), valid.sum(1)]
        if marks is not None and marks.document is not None:
            counted.append(marks.document.sum(1))
        visual, text, length, *more = (tuple(x) for x in torch.stack(counted).tolist())
        packed = bool(more) and any(more[0])
        if marks is None or (marks.end is None and not packed):
            return cls(rows, (RegionSizes(visual, text),), text, length, frames)
        regions = assign(rows.visual, valid & prompt_rows(valid, prompt) & ~rows.visual, marks)
        rows = rows.divided(regions.text, regions.number)
        document = marks.document.cumsum(1) if packed and marks.document is not None else None
        if document is not None:
            frames = frames.divided(document)
        return cls(rows, regions.sizes, text, length, frames, regions.facts, regions.in_front, document)

    @property
    def visual(self) -> tuple[int, ...]:
        """Visual tokens per sample."""
        return tuple(map(sum, zip(*(size.visual for size in self.sizes), strict=True)))

    @classmethod
    def dense(cls, valid: Tensor) -> Layout:
        """Of a prompt without visual tokens, or without any that are known."""
        return cls.of(valid, Frames.given(torch.zeros_like(valid), None))

    @property
    def prunable(self) -> tuple[bool, ...]:
        """Which samples have visual tokens and text to judge them."""
        return tuple(
            any(size.visual[i] and size.text[i] for size in self.sizes) for i in range(len(self.length))
        )


@dataclass(frozen=True)
class Plan:
    """What sparsification does to one model: fixed at installation."""

    method: Method
    decoder: nn.Module
    kinds: tuple[Layer, ...]
    stages: tuple[int, ...]  # pruning layers
    clock: SectionTimer
    keep_trace: bool = False
    trim_early: bool = (
        False  # whether the layers before the first stage forget its dropped tokens after the prefill
    )

    @property
    def first_pruned(self) -> int:
        """The first layer whose cache may hold fewer tokens than its logical length."""
        return 0 if self.trim_early else self.stages[0] + 1

    @property
    def filled_by(self) -> FilledBy:
        """What it writes on caches."""
        return FilledBy(str(self.method), self.stages, self.method.positions, self.trim_early)

    @property
    def num_layers(self) -> int:
        return len(self.kinds)

    @property
    def flash(self) -> bool:
        """Whether attention takes 2D masks; the implementation may change between forwards."""
        return "flash" in attention_implementation(self.decoder)


@dataclass(frozen=True)
class Record:
    """What is remembered of a prefill when it is over; no cache, no hidden states."""

    layout: Layout
    width: int  # padded length of the batch
    past: tuple[int, ...]  # keys each layer had cached before, or the one it borrows from
    cached: (
        tuple[tuple[int, int], ...] | None
    )  # numbers each layer caches per token, and bytes; None without a cache
    number_bytes: int  # of what would be cached without one
    # Per stage that ran, region number and sample: visual tokens after it, recycled ones, and what these became.
    tokens_out: tuple[tuple[tuple[int, ...], ...], ...]
    recycled: tuple[tuple[tuple[int, ...], ...], ...]
    merged: tuple[tuple[tuple[int, ...], ...], ...]
    chosen: tuple[StageRecord, ...]  # per stage
    raters: Tensor | None  # boolean [b, n] over the rows of the input; None if none were chosen
    trace: list[Trace]


VISUAL, OLD, KEPT = 1, 2, 4  # flags of a stage's tokens: no padding, merged at an earlier stage, kept


@dataclass(frozen=True)
class StageRecord:
    """What one stage decided, on the device, small: 9 bytes per visual token, 4 more where tokens are merged."""

    source: Tensor  # int32 [b, v]: row of the input (of a merged token: its cluster centre's)
    flags: Tensor  # uint8 [b, v]
    score: Tensor  # float32 [b, v]
    into: Tensor | None  # int32 [b, v]: row of the centre of the merged token it became part of here, or -1

    @classmethod
    def of(cls, chosen: Sequence[Chosen]) -> StageRecord:
        """Regions stand side by side, in the order of their numbers."""
        parts = [cls._of(*region) for region in chosen]
        if len(parts) == 1:
            return parts[0]
        into = [torch.full_like(x.source, -1) if x.into is None else x.into for x in parts]
        return cls(
            torch.cat([x.source for x in parts], 1),
            torch.cat([x.flags for x in parts], 1),
            torch.cat([x.score for x in parts], 1),
            None if all(x.into is None for x in parts) else torch.cat(into, 1),
        )

    @classmethod
    def _of(cls, stage: StageInput, selection: Selection, source: Tensor) -> StageRecord:
        old = stage.visual & (stage.origin < 0)
        flags = stage.visual * VISUAL + old * OLD + selection.keep * KEPT
        return cls(
            source.to(torch.int32),
            flags.to(torch.uint8),
            selection.score.to(torch.float32, copy=True),
            _into(source, selection),
        )


def _into(source: Tensor, selection: Selection) -> Tensor | None:
    recycled, merge = selection.recycled, selection.merge
    if recycled is None or merge is None:
        return None
    cluster = merge.assign.clamp(0, merge.centre.shape[1] - 1)  # that of filler may be no cluster
    centre = source.gather(1, recycled.gather(1, merge.centre.gather(1, cluster)))
    place = torch.arange(recycled.shape[1], device=source.device)
    count = torch.tensor(selection.counts.recycled).to(source.device, non_blocking=True)[:, None]
    # What is no recycled token but filler is written to a scratch column.
    column = recycled.masked_fill(place >= count, source.shape[1])
    into = source.new_full((source.shape[0], source.shape[1] + 1), -1, dtype=torch.int32)
    return into.scatter_(1, column, centre.to(torch.int32))[:, :-1]


@dataclass
class Trace:
    """Everything one stage saw and decided."""

    stage: StageInput
    selection: Selection
    rows: Rows  # after the stage
