"""The report of a batch's prefill, from counts."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from ..core.budget import Schedule, Stage
from ..core.facts import AFTER, NOTHING
from ..macs import DecoderShape, Overhead
from ..report import Clip, Latency, RegionReport, Report, SampleReport


def batch_report(
    *,
    method: dict[str, Any],
    shape: DecoderShape,
    layers: tuple[int, ...],
    visual: Sequence[int],
    text: Sequence[int],
    length: Sequence[int],
    width: int,
    tokens_out: Sequence[Sequence[int]],
    recycled: Sequence[Sequence[int]],
    merged: Sequence[Sequence[int]],
    past: Sequence[int],
    latency: Latency,
    clips: Sequence[tuple[Clip, ...]] | None = None,
    regions: Sequence[tuple[RegionReport, ...]] | None = None,
    trimmed: bool = False,
    overhead: Overhead = lambda _: 0,
) -> Report:
    """Build a report from counts.

    Args:
        method: the method as a dict.
        shape: of the decoder.
        layers: pruning layers.
        visual, text, length: per sample: visual tokens, scoring text tokens, all tokens.
        width: padded length of the batch.
        tokens_out: visual tokens per sample after each stage that ran; empty if the prefill ran dense.
        recycled, merged: recycled tokens per stage and sample, and the merged tokens made of them.
        past: number of keys that each layer had cached before.
        latency: measurements, possibly none.
        clips: pictures and clips of every sample.
        regions: of every sample; default: all its visual tokens are one region.
        trimmed: whether the layers up to the first stage cache no more tokens than leave it.
        overhead: multiply-adds of the method itself at a stage.
    """
    count = len(shape.layers)
    samples, kv = [], [width] * count
    for stage, layer in zip(tokens_out, layers, strict=False):
        kept = max(n - v + o for n, v, o in zip(length, visual, stage, strict=True))
        kv[layer + 1 :] = [kept] * (count - layer - 1)
    if trimmed and tokens_out:
        early = layers[0] + 1
        kv[:early] = [min(width, kv[early])] * early
    for i, (v, t, n) in enumerate(zip(visual, text, length, strict=True)):
        stages, tokens = [], v
        for layer, out, m, q in zip(layers, tokens_out, recycled, merged, strict=False):
            stages.append(Stage(layer, tokens, out[i] - q[i], m[i], q[i]))
            tokens = out[i]
        schedule = Schedule(v, count, tuple(stages))
        entering = schedule.entering
        own = regions[i] if regions is not None else (_whole(v, t, schedule.stages),)
        scoring = 0
        for region in own:
            keys = [n - v + a.tokens_in - b.tokens_in for a, b in zip(stages, region.stages, strict=True)]
            part = Schedule(region.visual_tokens, count, region.stages)
            if region.text_tokens:  # else nothing is scored
                scoring += shape.overhead_macs(part, keys, region.text_tokens, overhead, past)
        note = _why_dense(v, t) if all(e == v for e in entering) else ""
        scoring = 0 if note else scoring
        samples.append(
            SampleReport(
                visual_tokens=v,
                text_tokens=n - v,
                visual_per_layer=entering,
                equal_tokens=schedule.equal_tokens,
                equal_tokens_entering=schedule.equal_tokens_entering,
                macs_dense=shape.prefill_macs([n] * count, past),
                macs_sparse=shape.prefill_macs([n - v + e for e in entering], past) + scoring,
                macs_scoring=scoring,
                note=note,
                clips=clips[i] if clips is not None else (),
                regions=own if v else (),
            )
        )
    lengths = shape.kv_lengths(kv, past)
    return Report(
        method=method,
        layers=layers,
        samples=tuple(samples),
        kv_lengths=lengths,
        kv_bytes_dense=len(samples) * shape.kv_cache_bytes(shape.kv_lengths([width] * count, past)),
        kv_bytes_sparse=len(samples) * shape.kv_cache_bytes(lengths),
        prefill_ms=median(latency.prefill) if latency.prefill else None,
        decode_ms=median(latency.decode) if latency.decode else None,
        trimmed=trimmed,
    )


def _why_dense(visual: int, text: int) -> str:
    """Why a sample kept all its visual tokens."""
    if not visual:
        return "ran dense: no visual tokens"
    return (
        f"ran dense: {'the budget keeps every visual token' if text else 'no text after the visual tokens'}"
    )


def _whole(visual: int, text: int, stages: tuple[Stage, ...]) -> RegionReport:
    """The region of a sample that has only one."""
    return RegionReport(0, visual, text, AFTER if text else NOTHING, stages)
