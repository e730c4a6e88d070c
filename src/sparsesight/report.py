"""The report of a prefill: tokens per layer, FLOPs, KV bytes, latency."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from itertools import groupby
from typing import Any

from .core.budget import BEFORE, Stage
from .core.facts import BEFORE_PICTURE


@dataclass
class Latency:
    """Measured milliseconds of the decoder: per prefill, and per decoding step."""

    prefill: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)

    def add(self, ms: float, prefill: bool) -> None:
        (self.prefill if prefill else self.decode).append(ms)


@dataclass(frozen=True)
class Clip:
    """The tokens of a picture or a clip in a prompt, before and after each stage.

    Attributes:
        kind: "image" or "video".
        frames: visual tokens of each frame; a picture is one frame.
        kept: kept tokens of each frame, per stage, without merged tokens.
        frames_known: whether the frames could be separated; if not, the clip counts as one frame.
    """

    kind: str
    frames: tuple[int, ...]
    kept: tuple[tuple[int, ...], ...]
    frames_known: bool

    def __str__(self) -> str:
        frames = f"{len(self.frames)} frames" if self.frames_known else "frames not known"
        name = "picture" if self.kind == "image" else f"clip ({frames})"
        return f"{name}: " + " -> ".join(run_lengths(x) for x in (self.frames, *self.kept))


@dataclass(frozen=True)
class RegionReport:
    """Visual tokens that were scored together: those of a turn of a chat, of a packed document, or of the prompt.

    Attributes:
        turn: number of the turn or document within this prefill, from 0.
        visual_tokens: of all its pictures.
        text_tokens: scoring text tokens, among which the method may select raters.
        judged_by: their position: "after the picture", "before the picture", or "no text".
        stages: counts of each stage that ran.
    """

    turn: int
    visual_tokens: int
    text_tokens: int
    judged_by: str
    stages: tuple[Stage, ...]

    def __str__(self) -> str:
        left = " -> ".join(map(str, (self.visual_tokens, *(stage.tokens_out for stage in self.stages))))
        by = f"{self.text_tokens} text tokens {self.judged_by}" if self.text_tokens else self.judged_by
        return f"turn {self.turn}: {left} visual tokens, judged by {by}"


@dataclass(frozen=True)
class SampleReport:
    """One sample of the batch."""

    visual_tokens: int
    text_tokens: int  # everything that is not visual
    visual_per_layer: tuple[int, ...]  # entering each layer
    equal_tokens: float  # a pruning layer counts at its pruned size, as published
    equal_tokens_entering: float  # every layer counts what enters it
    macs_dense: int
    macs_sparse: int  # scoring included
    macs_scoring: int  # raters, rater-row attention, merging
    note: str = ""  # why it ran dense, if it did
    clips: tuple[Clip, ...] = ()  # its pictures and clips, in order
    regions: tuple[RegionReport, ...] = ()  # which text scored which of its visual tokens


@dataclass(frozen=True)
class Report:
    """Costs and savings of the last prefill; ``print`` it, or use :meth:`to_dict`."""

    method: dict[str, Any]
    layers: tuple[int, ...]
    samples: tuple[SampleReport, ...]
    kv_lengths: tuple[int, ...]  # keys held by each layer after the prefill, padding of the batch included
    kv_bytes_dense: int
    kv_bytes_sparse: int
    prefill_ms: float | None = None
    decode_ms: float | None = None
    trimmed: bool = False  # whether the caches of the layers up to the first stage were trimmed

    @property
    def macs_dense(self) -> int:
        return sum(s.macs_dense for s in self.samples)

    @property
    def macs_sparse(self) -> int:
        return sum(s.macs_sparse for s in self.samples)

    @property
    def speedup_limit(self) -> float:
        """Dense over sparse prefill FLOPs: an upper limit of the speed-up."""
        return self.macs_dense / self.macs_sparse

    @property
    def headline(self) -> str:
        """What was saved, in one line.

        ``5.0x less prefill arithmetic, 76 % less KV cache; on average 64 of 576 visual tokens leave a layer, 75 enter
        it``. What leaves is what ``retain`` counts; what enters a layer, that layer computes.
        """
        samples, macs = self.samples, (self.macs_dense, self.macs_sparse)
        if macs[0] == macs[1]:
            notes = {sample.note for sample in samples if sample.note}
            return f"nothing was saved ({notes.pop()})" if len(notes) == 1 else "nothing was saved"
        more = "less" if macs[0] > macs[1] else "more"
        times = f"{max(macs) / min(macs):.1f}x {more} prefill arithmetic"
        saved = round(100 * (1 - self.kv_bytes_sparse / self.kv_bytes_dense))
        before = sum(s.visual_tokens for s in samples) / len(samples)
        leave, enter = (
            f"{sum(counts) / len(samples):.0f}"
            for counts in ([s.equal_tokens for s in samples], [s.equal_tokens_entering for s in samples])
        )
        of = f"on average {leave} of {before:.0f} visual tokens"
        means = f"{of} per layer" if leave == enter else f"{of} leave a layer, {enter} enter it"
        over = f", over {len(samples)} samples" if len(samples) > 1 else ""
        return f"{times}, {saved} % less KV cache; {means}{over}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable data."""
        totals = {"macs_dense": self.macs_dense, "macs_sparse": self.macs_sparse}
        return {**asdict(self), **totals, "speedup_limit": self.speedup_limit}

    def to_json(self) -> str:
        return json.dumps(self.to_dict())

    def rows(self) -> list[tuple[str, str, str]]:
        """``(quantity, dense, sparse)``, ready for a table; token counts are averages over the samples."""
        n = len(self.samples)

        def mean(values: Sequence[float]) -> str:
            return f"{sum(values) / n:.1f}"

        rows = [
            (
                "visual tokens per layer",
                mean([s.visual_tokens for s in self.samples]),
                mean([s.equal_tokens for s in self.samples]),
            ),
            (
                "visual tokens entering a layer",
                mean([s.visual_tokens for s in self.samples]),
                mean([s.equal_tokens_entering for s in self.samples]),
            ),
            ("prefill multiply-adds", si(self.macs_dense), si(self.macs_sparse)),
            ("KV cache bytes", si(self.kv_bytes_dense), si(self.kv_bytes_sparse)),
        ]
        for name, value in (("prefill ms", self.prefill_ms), ("decode ms per token", self.decode_ms)):
            if value is not None:
                rows.append((name, "", f"{value:.2f}"))
        return rows

    def _repr_html_(self) -> str:
        samples = "".join(
            f"<p>sample {i}, visual tokens entering: {escape(by_layers(sample.visual_per_layer))}. "
            f"{escape(sample.note)}</p>"
            for i, sample in enumerate(self.samples)
        )
        return f"<div>{html_summary(self)}{html_table(self)}{samples}</div>"

    def __str__(self) -> str:
        lines = [self.headline, f"{_name(self.method)}, pruning {where(self.layers)}"]
        lines.append(f"{'':<32}{'dense':>12}{'sparse':>12}")
        lines += [f"{name:<32}{dense:>12}{sparse:>12}" for name, dense, sparse in self.rows()]
        lines.append("visual tokens entering")
        for i, sample in enumerate(self.samples):
            note = f"  ({sample.note})" if sample.note else ""
            lines.append(f"  sample {i}: {by_layers(sample.visual_per_layer)}{note}")
            if len(sample.regions) > 1 or any(x.judged_by == BEFORE_PICTURE for x in sample.regions):
                lines += [f"    {region}" for region in sample.regions]
            if any(clip.kind == "video" for clip in sample.clips):
                lines += [f"    {clip}" for clip in sample.clips]
        return "\n".join(lines)


def html_summary(report: Report) -> str:
    """What was saved, and method, budget and pruning layers, as two HTML paragraphs."""
    parts = report.method.get("parts") or [report.method]
    name = " > ".join(f"{part['method']}, retain {part['retain']}" for part in parts)
    return (
        f"<p><strong>{escape(report.headline)}</strong></p>"
        f"<p>{escape(name)}, pruning {escape(where(report.layers))}</p>"
    )


def html_table(report: Report) -> str:
    """:meth:`Report.rows` as an HTML table."""
    rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in report.rows())
    return (
        f"<table><thead><tr><th></th><th>dense</th><th>sparse</th></tr></thead><tbody>{rows}</tbody></table>"
    )


def where(layers: Sequence[int]) -> str:
    """The positions of the stages: ``before the first layer and after layers 2, 6``."""
    after = [str(layer) for layer in layers if layer != BEFORE]
    said = ["before the first layer"] if BEFORE in layers else []
    inside = [f"after layer{'s' if len(after) > 1 else ''} {', '.join(after)}"] if after else []
    return " and ".join([*said, *inside])


def _name(method: dict[str, Any]) -> str:
    parts = method.get("parts")
    return " > ".join(map(_name, parts)) if parts else str(method["method"])


def listed(names: Sequence[str], most: int = 3) -> str:
    """``a``, ``a and b``, ``a, b, c and 7 more``."""
    said = [*names[:most], *([f"{len(names) - most} more"] if len(names) > most else [])]
    return " and ".join(filter(None, (", ".join(said[:-1]), said[-1])))


def by_layers(per_layer: Sequence[int]) -> str:
    """``576 in layers 0-2, 300 in layer 3``: one count per layer, in words."""
    said, first = [], 0
    for count, times in _runs(per_layer):
        last = first + times - 1
        said.append(f"{count} in layer {first}" if times == 1 else f"{count} in layers {first}-{last}")
        first = last + 1
    return ", ".join(said)


def run_lengths(counts: Sequence[int]) -> str:
    """``36 x3, 12 x1``: run lengths of equal counts."""
    return ", ".join(f"{count} x{times}" for count, times in _runs(counts))


def _runs(counts: Sequence[int]) -> list[tuple[int, int]]:
    """Each count that differs from the one before, and how often it follows itself."""
    return [(count, len(list(same))) for count, same in groupby(counts)]


def si(value: float) -> str:
    """A number with a metric prefix."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.2f} {prefix}"
    return f"{value:.0f}"
