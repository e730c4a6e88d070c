"""The handle of a sparsified model: results of its prefills, and :meth:`Sparsified.restore`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..core.record import StageRecord
from ..core.turns import Turns
from ..errors import SparseSightError, UnsupportedModelError
from ..methods import Method
from ..profiling.op_counter import Operations
from ..profiling.sections import SectionTimer
from ..report import Report, where
from .batch_report import batch_report
from .compiled.options import Fast, FastUse, parse_fast
from .decoder_shape import decoder_shape
from .hooks import Hooks
from .model_parts import check_implementation, inspect_model
from .prompt.layout import Plan
from .prompt.visual_mask import PER_CALL, VisualMask, VisualMaskSpec
from .record import PrefillRecord, RunHistory, Trace
from .rope import is_plain
from .vision.once import Encoded
from .vision.text_tower import TextTower

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Sparsified:
    """Handle of a sparsified model.

    Its results (``report``, ``kept``, ``choices``, ``raters``, ``trace``, ``fast``) are of the last prefill in the
    current thread. A thread that ran none, such as one that waits for a worker, gets those of the last prefill in any
    thread.

    Attributes:
        model: the sparsified model, without a wrapper for adapters.
        visual_ids: token ids that stand for visual tokens; empty if the caller passes their positions.
        method: the method in use.
        layers: 0-based decoder layers after which it prunes.
    """

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        visual_mask: VisualMask | None = None,
        trim_early_layers: bool = False,
        *,
        text_tower: TextTower | None = None,
        turns: Turns | None = None,
        timing: bool = False,
        trace: bool = False,
        fast: Fast | bool | str = False,
        encode_once: bool = False,
    ) -> None:
        if method.requires_text_tower != (text_tower is not None):
            raise SparseSightError(
                f"method={method} compares the question with patches, for which a vision-language model has no text "
                "tower: give the one its vision tower was trained with, text_tower=TextTower.from_pretrained(...)"
                if method.requires_text_tower
                else f"text_tower: method={method} reads none; leave it out, or use CDPruner.published()"
            )
        switches = {"trim_early_layers": trim_early_layers, "timing": timing, "trace": trace}
        for name, value in {**switches, "encode_once": encode_once}.items():
            if not isinstance(value, bool):
                raise SparseSightError(f"{name}={value!r}: use True or False")
        how_fast = parse_fast(fast)
        parts = inspect_model(model)
        if isinstance(visual_mask, str) and visual_mask != PER_CALL:
            raise SparseSightError(
                f"visual_mask={visual_mask!r}: the only string that is accepted is {PER_CALL!r}"
            )
        if visual_mask is not None and not callable(visual_mask) and not isinstance(visual_mask, str):
            VisualMaskSpec.of(visual_mask)
        if not parts.visual_ids and visual_mask is None:
            raise UnsupportedModelError(
                f"model={type(model).__name__} has no visual tokens: pass a vision-language model, or "
                f"visual_mask={PER_CALL!r} for a language model that gets pictures through inputs_embeds"
            )
        if method.positions == "compact" and not is_plain(parts.decoder):
            raise UnsupportedModelError(
                "positions='compact' needs a decoder with one kind of rotary positions along one axis: "
                "use positions='original'"
            )
        check_implementation(parts.decoder, parts.kinds, method.weights_keys)
        self.model = parts.model
        self.visual_ids = parts.visual_ids if visual_mask is None else ()
        self.turns = turns
        self.method = method
        self.layers = method.stage_layers(len(parts.layers), parts.prunable)
        self._shape = decoder_shape(parts)
        self._runs = RunHistory()
        self._clock = SectionTimer(lambda: next(parts.decoder.parameters()).device)
        plan = Plan(
            method=method,
            decoder=parts.decoder,
            kinds=parts.kinds,
            stages=self.layers,
            clock=self._clock,
            keep_trace=trace,
            trim_early=trim_early_layers,
        )
        self._hooks = Hooks(
            parts, plan, visual_mask, self._runs.add, timing, text_tower, how_fast, turns, encode_once
        )

    @property
    def report(self) -> Report:
        """Tokens, FLOPs, KV bytes and latency of the last prefill, printable and JSON-serialisable.

        Raises:
            SparseSightError: before the model has run.
        """
        last, latency = self._runs.last("report")
        shape = replace(self._shape, kv_bytes=last.number_bytes)
        return batch_report(
            method=self.method.to_dict(),
            shape=shape if last.cached is None else shape.caching(*zip(*last.cached, strict=True)),
            layers=self.layers,
            regions=last.regions,
            length=last.layout.length,
            width=last.width,
            overhead=self.method.overhead,
            past=last.past,
            latency=latency,
            clips=last.layout.frames.describe(last.samples),
            trimmed=self._hooks.plan.trim_early,
        )

    @property
    def kept(self) -> list[list[Tensor]]:
        """Kept visual tokens of the last prefill: ``kept[stage][sample]`` are sorted indices (int64, on the CPU) among
        that sample's visual tokens, numbered through all its pictures. Merged tokens are not included.

        A prefill that ran dense has no stages.
        """
        stages = zip(*self._runs.last("kept")[0].samples, strict=True)
        return [[torch.from_numpy(np.flatnonzero(stage.kept)) for stage in batch] for batch in stages]

    def choices(self, sample: int = 0) -> list[StageRecord]:
        """What every stage of the last prefill did with each visual token of a sample, with scores and merges.

        Empty if the prefill ran dense. Always recorded, at the cost of a few numbers per token.

        Raises:
            SparseSightError: before the model has run, or without such a sample.
        """
        return list(self._ran("choices", sample).samples[sample])

    def raters(self, sample: int = 0) -> Tensor:
        """Which columns of the last prefill's input, including padding, are raters: boolean [n], on the CPU. All False
        if the method selects no raters, or the prefill ran dense.

        Raises:
            SparseSightError: before the model has run, or without such a sample.
        """
        last = self._ran("raters", sample)
        if last.raters is None:
            return torch.zeros(last.width, dtype=torch.bool)
        return last.raters[sample].cpu()

    def figure(
        self,
        image: Any,
        processor: Any,
        inputs: Mapping[str, Any] | None = None,
        *,
        question: str = "",
        answers: Mapping[str, str] | None = None,
        sample: int = 0,
    ) -> Figure:
        """One figure of the last prefill of a sample: question, answers, savings, scores, kept patches, staircase.

        Args:
            image, processor, inputs: as for :func:`sparsesight.viz.look`.
            question, answers: as for :func:`sparsesight.viz.figure`.
            sample: index in the batch.

        Returns:
            A matplotlib figure: ``run.figure(picture, processor, inputs).savefig("kept.svg")``.

        Raises:
            SparseSightError: what these two functions refuse.
        """
        # It stands above the hosts, and is loaded only if a picture is asked for.
        viz = import_module("sparsesight.viz")
        look = viz.look(self, image, processor, inputs, sample=sample)
        drawn: Figure = viz.figure(look, question=question, answers=answers)
        return drawn

    def _ran(self, what: str, sample: int) -> PrefillRecord:
        last, _ = self._runs.last(what)
        count = len(last.layout.visual)
        if not 0 <= sample < count:
            raise SparseSightError(f"sample={sample}: the last prefill had {count}, counted from 0")
        return last

    @property
    def trace(self) -> list[Trace]:
        """The input and the decision of each stage of the last prefill; empty without ``trace=True``."""
        last = self._runs.current.last
        return [] if last is None else last.trace

    @property
    def fast(self) -> FastUse | None:
        """How the last prefill used the fast path; None without ``fast=``."""
        return None if self._hooks.fast is None else self._runs.current.fast or self._hooks.fast.use

    @property
    def encoded(self) -> Encoded | None:
        """How many tiles, pictures or frames the vision tower was given and how many it encoded since :func:`sparsify`,
        in all threads; None without ``encode_once=True``. Both are 0 for a tower that encodes none of them alone.
        """
        return None if self._hooks.once is None else self._hooks.once.count

    def __repr__(self) -> str:
        state = "" if self._hooks.added else ", restored"
        try:
            last = f"last prefill: {self.report.headline}"
        except SparseSightError:
            last = "not run yet"
        return (
            f"<{type(self.model).__name__} with {self.method}, pruning {where(self.layers)}{state}; {last}>"
        )

    def restore(self) -> None:
        """Restore the model exactly as it was; safe to call twice, and again after an interrupt."""
        self._hooks.remove()

    def __del__(self) -> None:
        hooks = getattr(self, "_hooks", None)  # None: it was never installed
        if hooks is not None and hooks.added:
            warnings.warn(
                f"the handle of a sparsified {type(self.model).__name__} is gone without restore(): the model stays "
                "sparsified until sparsesight.restore(model)",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )

    def __enter__(self) -> Sparsified:
        if not self._hooks.added:
            raise SparseSightError("this handle was restored: call sparsify() again")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.restore()

    @contextmanager
    def count_operations(self) -> Iterator[Operations]:
        """Count the torch operations of this thread within the context, by part of the mechanism; "" is all else."""
        self._clock.sections = {}
        try:
            with Operations(lambda: self._clock.open[-1] if self._clock.open else "") as counted:
                yield counted
        finally:
            self._clock.sections = None

    @contextmanager
    def measure_sections(self, processor: bool = False) -> Iterator[dict[str, float]]:
        """Collect the seconds of each part of the mechanism (``profiling.sections.PARTS``) within the context.

        Wall-clock time, which synchronises the device, or with ``processor`` the processor time of all threads.
        """
        self._clock.sections = {}
        self._clock.processor = processor
        try:
            yield self._clock.sections
        finally:
            self._clock.sections = None
