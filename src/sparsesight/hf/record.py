"""What every stage of a prefill did with every visual token, told of one sample, on the CPU."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from ..core.budget import Stage
from ..core.facts import AFTER, NOTHING
from ..errors import SparseSightError
from ..report import Latency, RegionReport
from .compiled.options import FastUse
from .prompt.layout import KEPT, OLD, VISUAL, Record

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor


@dataclass(frozen=True)
class Choice:
    """One stage, one sample; ``v`` are the visual tokens that came to it, in the order of the prompt.

    Attributes:
        layer: it pruned after this layer, -1: before the first.
        token: int64, index among the sample's visual tokens, all its pictures counted through; of a token that was
            merged at an earlier stage, that of its cluster's centre.
        merged: whether it was merged at an earlier stage.
        score: float32, larger is better; what it means is the method's business.
        kept: whether it went on as it was.
        into: int64, the ``token`` of the centre of the merged token that it became part of here; -1: of none.
    """

    layer: int
    token: Int[Tensor, " v"]
    merged: Bool[Tensor, " v"]
    score: Float[Tensor, " v"]
    kept: Bool[Tensor, " v"]
    into: Int[Tensor, " v"]


def choices(record: Record, layers: tuple[int, ...], sample: int) -> list[Choice]:
    """Per stage that ran, for one sample; copies the stages' tensors from the device."""
    visual = record.layout.frames.visual[sample].cpu()
    number = visual.long().cumsum(0) - 1  # of every row of the input
    told = []
    for layer, stage in zip(layers, record.chosen, strict=False):
        flags = stage.flags[sample].cpu()
        real = (flags & VISUAL) > 0
        token = number[stage.source[sample].cpu().long()[real]]
        into = torch.full_like(token, -1)
        if stage.into is not None:
            row = stage.into[sample].cpu().long()[real]
            into = torch.where(row >= 0, number[row.clamp(min=0)], -1)
        told.append(
            Choice(
                layer=layer,
                token=token,
                merged=(flags[real] & OLD) > 0,
                score=stage.score[sample].cpu()[real],
                kept=(flags[real] & KEPT) > 0,
                into=into,
            )
        )
    return told


@dataclass
class Run:
    """What one thread ran last on a handle.

    Attributes:
        last: its last prefill; None before there was one.
        latency: of all of its forwards.
        fast: what became of the fast path in that prefill.
    """

    last: Record | None = None
    latency: Latency = field(default_factory=Latency)
    fast: FastUse | None = None


class Runs:
    """What a handle tells: of a thread that ran a prefill its own last one, in any other thread the last one of all.

    A record goes with its thread; of threads that have ended only the last prefill of all is kept.
    """

    def __init__(self) -> None:
        self._own = threading.local()
        self._latest = Run()

    def add(self, record: Record | None, ms: float | None, fast: FastUse | None) -> None:
        """Note a forward of this thread; ``record`` is None if it was no prefill."""
        run: Run | None = getattr(self._own, "run", None)
        if run is None:
            run = self._own.run = Run()
        if ms is not None:
            run.latency.add(ms, record is not None)
        if record is not None:
            run.last, run.fast = record, fast
            self._latest = run

    @property
    def current(self) -> Run:
        """What this thread is told."""
        own: Run | None = getattr(self._own, "run", None)
        return self._latest if own is None or own.last is None else own

    def last(self, what: str) -> tuple[Record, Latency]:
        """The prefill that this thread is told of, for ``what``.

        Raises:
            SparseSightError: if there was none.
        """
        run = self.current
        if run.last is None:
            raise SparseSightError(f"{what}: the model has not run yet")
        return run.last, run.latency


def region_reports(record: Record, layers: tuple[int, ...]) -> list[tuple[RegionReport, ...]]:
    """Of every sample, which text judged which of its visual tokens, and what each stage did."""
    layout, told = record.layout, []
    for sample in range(len(layout.length)):
        own = []
        for number, size in enumerate(layout.sizes):
            visual, text = size.visual[sample], size.text[sample]
            if number and not visual:
                continue
            fact = layout.facts[number][sample] if layout.facts is not None else None
            stages, tokens = [], visual
            for layer, *counts in zip(
                layers, record.tokens_out, record.recycled, record.merged, strict=False
            ):
                out, recycled, merged = (x[number][sample] for x in counts)
                stages.append(Stage(layer, tokens, out - merged, recycled, merged))
                tokens = out
            where = fact.where if fact is not None else AFTER if text else NOTHING
            turn = fact.turn if fact is not None else 0
            own.append(RegionReport(turn, visual, text, where, tuple(stages)))
        told.append(tuple(own))
    return told
