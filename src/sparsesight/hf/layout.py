"""Plain data around a forward: the prompt's layout, what was planned, what is remembered of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..methods.base import Method, Selection, StageInput
from ..methods.rows import Rows
from .clock import Clock
from .families import Layer
from .frames import Frames


@dataclass(frozen=True)
class Layout:
    """Where a prompt's visual and text tokens are, and how many; counted once, before the picture is encoded."""

    rows: Rows
    visual: tuple[int, ...]  # visual tokens per sample
    text: tuple[int, ...]  # text tokens after the last visual one, per sample
    length: tuple[int, ...]  # all tokens per sample
    frames: Frames

    @classmethod
    def of(cls, valid: Tensor, frames: Frames) -> Layout:
        """``valid`` is boolean [b, n] and holds all of the frames' rows. Waits for the device once."""
        rows = Rows.start(valid, frames.visual)
        counts = torch.stack((rows.visual.sum(1), rows.text.sum(1), valid.sum(1)))
        visual, text, length = (tuple(x) for x in counts.tolist())
        return cls(rows, visual, text, length, frames)

    @property
    def prunable(self) -> tuple[bool, ...]:
        """Which samples have visual tokens and text after them to judge them."""
        return tuple(v > 0 and t > 0 for v, t in zip(self.visual, self.text, strict=True))


@dataclass(frozen=True)
class Plan:
    """What sparsification does to one model: fixed at installation."""

    method: Method
    decoder: nn.Module
    kinds: tuple[Layer, ...]
    stages: tuple[int, ...]  # pruning layers
    flash: bool  # whether attention takes 2D masks
    clock: Clock
    keep_trace: bool = False

    @property
    def num_layers(self) -> int:
        return len(self.kinds)


@dataclass(frozen=True)
class Record:
    """What is remembered of a prefill when it is over; no cache, no hidden states."""

    layout: Layout
    width: int  # padded length of the batch
    past: tuple[int, ...]  # keys each layer had cached before
    tokens_out: tuple[tuple[int, ...], ...]  # visual tokens after each stage, per sample
    recycled: tuple[tuple[int, ...], ...]
    kept: tuple[tuple[Tensor, Tensor], ...]  # per stage: origin [b, v] of the visual tokens, kept flag [b, v]
    trace: list[Trace]


@dataclass
class Trace:
    """Everything one stage saw and decided."""

    stage: StageInput
    selection: Selection
    rows: Rows  # after the stage
