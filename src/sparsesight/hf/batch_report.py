"""Builds the report of a batch's prefill from counts."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from ..core.budget import Schedule, Stage, cached_tokens
from ..macs import DecoderShape, Overhead
from ..report import Clip, Latency, RegionReport, Report, SampleReport


def batch_report(
    *,
    method: dict[str, Any],
    shape: DecoderShape,
    layers: tuple[int, ...],
    regions: Sequence[tuple[RegionReport, ...]],
    length: Sequence[int],
    width: int,
    past: Sequence[int],
    latency: Latency,
    clips: Sequence[tuple[Clip, ...]] | None = None,
    trimmed: bool = False,
    overhead: Overhead = lambda _: 0,
) -> Report:
    """Build a report from counts.

    Args:
        method: the method as a dict.
        shape: of the decoder.
        layers: pruning layers.
        regions: of every sample, with the stages that ran; without stages if the prefill ran dense.
        length: tokens per sample.
        width: padded length of the batch.
        past: number of keys that each layer had cached before.
        latency: measurements, possibly none.
        clips: pictures and clips of every sample.
        trimmed: whether the layers up to the first stage cache no more tokens than leave it.
        overhead: multiply-adds of the method itself at a stage.
    """
    count = len(shape.layers)
    schedules = [_whole(own, count) for own in regions]
    samples, kv = [], [width] * count
    if schedules[0].stages:
        cached = [cached_tokens(x.entering, layers[0], trimmed) for x in schedules]
        rows = [[n - x.visual + c for c in own] for n, x, own in zip(length, schedules, cached, strict=True)]
        first = 0 if trimmed else layers[0] + 1
        kv[first:] = [max(layer) for layer in zip(*(own[first:] for own in rows), strict=True)]
    for i, (own, n, schedule) in enumerate(zip(regions, length, schedules, strict=True)):
        v, entering = schedule.visual, schedule.entering
        scoring = 0
        for region in own:
            keys = [
                n - v + a.tokens_in - b.tokens_in for a, b in zip(schedule.stages, region.stages, strict=True)
            ]
            part = Schedule(region.visual_tokens, count, region.stages)
            if region.text_tokens:  # else nothing is scored
                scoring += shape.overhead_macs(part, keys, region.text_tokens, overhead, past)
        note = (
            _why_dense(v, sum(region.text_tokens for region in own)) if all(e == v for e in entering) else ""
        )
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
        return "ran dense: no visual tokens in its prompt"
    return (
        f"ran dense: {'the budget keeps every visual token' if text else 'no text after the visual tokens'}"
    )


def _whole(regions: Sequence[RegionReport], num_layers: int) -> Schedule:
    """The counts of a sample, all its regions together."""
    stages = [
        Stage(
            own[0].layer,
            *(sum(getattr(x, name) for x in own) for name in ("tokens_in", "keep", "recycled", "merged")),
        )
        for own in zip(*(region.stages for region in regions), strict=True)
    ]
    return Schedule(sum(region.visual_tokens for region in regions), num_layers, tuple(stages))
