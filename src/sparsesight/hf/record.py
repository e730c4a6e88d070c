"""The record of a prefill, built once: what each stage kept and counted."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from ..core.budget import Stage
from ..core.facts import AFTER, NOTHING
from ..core.record import StageRecord, StageTensors
from ..core.rows import Rows
from ..core.stage import Selection, StageInput
from ..errors import SparseSightError
from ..report import Latency, RegionReport
from .compiled.options import FastUse
from .prompt.layout import Layout

if TYPE_CHECKING:
    from jaxtyping import Bool
    from torch import Tensor


@dataclass
class Trace:
    """Everything one stage saw and decided."""

    stage: StageInput
    selection: Selection
    rows: Rows  # after the stage


@dataclass(frozen=True)
class PrefillRecord:
    """What is remembered of a prefill when it is over; no cache, no hidden states.

    Attributes:
        layout: of the prompt.
        width: padded length of the batch.
        past: keys each layer had cached before, or the one it borrows from.
        cached: numbers each layer caches per token, and bytes; None without a cache.
        number_bytes: bytes per number of what would be cached without one.
        counts: per stage that ran, region number and sample.
        stages: what each stage that ran did with every visual token.
        raters: which rows of the input are raters; None if none were chosen.
        trace: of every stage, if asked for.
    """

    layout: Layout
    width: int
    past: tuple[int, ...]
    cached: tuple[tuple[int, int], ...] | None
    number_bytes: int
    counts: tuple[tuple[tuple[Stage, ...], ...], ...]
    stages: tuple[StageTensors, ...]
    raters: Bool[Tensor, "b n"] | None
    trace: list[Trace]

    @cached_property
    def samples(self) -> list[tuple[StageRecord, ...]]:
        """The stages of each sample, on the CPU; copied from the device when they are first read."""
        stages = [stage.samples(self.layout.visual) for stage in self.stages]
        return [tuple(stage[i] for stage in stages) for i in range(len(self.layout.length))]

    @property
    def regions(self) -> list[tuple[RegionReport, ...]]:
        """For every sample: which text scored which of its visual tokens, and the counts of each stage."""
        layout, told = self.layout, []
        for sample in range(len(layout.length)):
            own = []
            for number, size in enumerate(layout.sizes):
                visual, text = size.visual[sample], size.text[sample]
                if number and not visual:
                    continue
                fact = layout.facts[number][sample] if layout.facts is not None else None
                where = fact.where if fact is not None else AFTER if text else NOTHING
                stages = tuple(stage[number][sample] for stage in self.counts)
                own.append(RegionReport(fact.turn if fact is not None else 0, visual, text, where, stages))
            told.append(tuple(own))
        return told


@dataclass
class Run:
    """The last calls of one thread on a handle.

    Attributes:
        last: its last prefill; None before there was one.
        latency: of all of its forwards.
        fast: how that prefill used the fast path.
    """

    last: PrefillRecord | None = None
    latency: Latency = field(default_factory=Latency)
    fast: FastUse | None = None


class RunHistory:
    """The records of a handle: in a thread that ran a prefill its own last one, in any other thread the last of all.

    A record goes with its thread; of threads that have ended only the last prefill of all is kept.
    """

    def __init__(self) -> None:
        self._own = threading.local()
        self._latest = Run()

    def add(self, record: PrefillRecord | None, ms: float | None, fast: FastUse | None) -> None:
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
        """The record for this thread."""
        own: Run | None = getattr(self._own, "run", None)
        return self._latest if own is None or own.last is None else own

    def last(self, what: str) -> tuple[PrefillRecord, Latency]:
        """The last prefill as this thread sees it, for ``what``.

        Raises:
            SparseSightError: if there was none.
        """
        run = self.current
        if run.last is None:
            raise SparseSightError(f"{what}: the model has not run yet")
        return run.last, run.latency
