"""The layout of a prompt, and the plan of a sparsified model: plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...core.budget import BEFORE
from ...core.facts import RegionFacts
from ...core.method import Method
from ...core.regions import Marks, assign
from ...core.rows import RegionSizes, Rows, prompt_rows
from ...profiling.sections import SectionTimer
from ..filled_by import FilledBy
from ..model_parts import Layer, attention_implementation
from .frames import Frames


@dataclass(frozen=True)
class Layout:
    """Where a prompt's visual and text tokens are, and how many; counted once, before the picture is encoded."""

    # Both until a forward takes them over.
    rows: Rows | None
    token: Tensor | None  # int64 [b, n]: index of each visual row among the sample's visual tokens
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

        Generated tokens, or an answer, begin at column ``prompt``, for all samples or for each [b].
        """
        rows = Rows.start(valid, frames.visual, prompt)
        token = rows.origin
        counted = [rows.visual.sum(1), rows.text.sum(1), valid.sum(1)]
        if marks is not None and marks.document is not None:
            counted.append(marks.document.sum(1))
        visual, text, length, *more = (tuple(x) for x in torch.stack(counted).tolist())
        packed = bool(more) and any(more[0])
        if marks is None or (marks.end is None and not packed):
            return cls(rows, token, (RegionSizes(visual, text),), text, length, frames)
        regions = assign(rows.visual, valid & prompt_rows(valid, prompt) & ~rows.visual, marks)
        rows = rows.divided(regions.text, regions.number)
        document = marks.document.cumsum(1) if packed and marks.document is not None else None
        if document is not None:
            frames = frames.divided(document)
        return cls(
            rows, token, regions.sizes, text, length, frames, regions.facts, regions.in_front, document
        )

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
        """Which samples have visual tokens and text to score them."""
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
    def read(self) -> tuple[int, ...]:
        """Pruning layers whose attention is read, by the method or for a trace."""
        return tuple(
            layer
            for i, layer in enumerate(self.stages)
            if layer != BEFORE and (self.keep_trace or self.method.requires_attention_at(i))
        )

    @property
    def num_layers(self) -> int:
        return len(self.kinds)

    @property
    def flash(self) -> bool:
        """Whether attention takes 2D masks; the implementation may change between forwards."""
        return "flash" in attention_implementation(self.decoder)
