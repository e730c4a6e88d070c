"""Measures the dense model and every method in one process, taking turns; each method gives a row of numbers."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from statistics import median
from typing import Any

from torch import nn

from ..errors import SparseSightError
from ..hf.compiled.options import Fast, FastUse
from ..hf.decoder_shape import decoder_shape
from ..hf.model_parts import ModelParts, inspect_model
from ..hf.sparsified import Sparsified
from ..hf.sparsify import sparsify
from ..hf.vision.text_tower import TextTower
from ..methods import Method
from ..profiling.sections import LAYOUT, PARTS
from ..report import Report
from .cases import Case
from .ceilings import Ceilings, ceilings, linears, parameter_bytes
from .footprint import Footprint, footprint
from .roofline import bound, roofline, token_ms
from .timing import FIRST, PREFILL, TOKEN, Times, milliseconds, spread, timed_decoder
from .work import products, run_once, shortened

SHARES = 3  # runs from which the shares of the mechanism are taken


def bench(
    model: Any,
    prompt: dict[str, Any],
    cases: Sequence[Case],
    *,
    repeats: int = 7,
    steps: int = 16,
    progress: Callable[[], object] | None = None,
    text_tower: TextTower | None = None,
    fast: Fast | None = None,
) -> list[dict[str, Any]]:
    """Measure dense and every case in one process, taking turns in random order.

    Args:
        model: a vision-language model.
        prompt: its inputs; ``attention_mask`` included.
        cases: methods with their budgets, one row each.
        repeats: counted turns, after one that is not.
        steps: decoding steps per turn.
        progress: called after each run.
        text_tower: for methods that read one.
        fast: measure the cases on the fast path (``sparsify(..., fast=...)``), and the dense model on it beside the
            dense model as it is; programs are built before the clock starts.

    Returns:
        One dict per case; times are medians in milliseconds, with their spread under ``spread``: ``first_token_*`` of
        the whole call up to the first token, ``prefill_*`` of the decoder in it, ``token_*`` of the whole call of a
        further token (None without steps). Ratios are medians of the ratios within a turn, so that a machine that
        drifts does not bend them; they come from the wall clock (CUDA: from events), and ``*_cpu`` are the same from
        processor time, which a loaded machine disturbs less.
        ``macs_limit`` is arithmetic (without the method's own); ``products_limit`` is what this machine reaches in the
        layers' matrix products alone at the same lengths (:func:`products`), and ``measured_limit`` in the same layers
        when they just get shorter inputs (:func:`shortened`). ``roofline_*`` is what this device allows by its
        measured ``ceilings`` (:mod:`.roofline`). ``overhead_share`` is what the mechanism's parts take of the sparse
        prefill, ``overhead_us`` the same in microseconds, with what it does before the decoder. ``peak_*_bytes`` are
        the most that tensors took at once in a whole prefill, vision tower and cache included, weights not;
        ``least_peak_*_bytes`` what the decoder alone cannot do without. ``kv_held_*_bytes`` are the storages of the
        cache, ``kv_*_bytes`` follow from sizes. MACs are multiply-adds of the whole batch. With ``fast``, ``fast`` has
        the times of the dense model on that path and what became of it; memory and operations are counted without.

    Raises:
        SparseSightError: for a case that keeps every visual token.
    """
    parts = inspect_model(model)
    decoder = parts.decoder
    # What stays for good after a first run, such as cuBLAS's workspace, must not count for whoever comes first.
    run_once(model, prompt, 0)
    reports: list[Report] = []
    counted = [footprint(model, prompt, decoder)]
    for case in cases:  # a budget that cannot be met fails now, not after minutes
        with _sparse(model, case.method, text_tower) as run:
            counted.append(footprint(model, prompt, decoder))
        if not run.kept:
            raise SparseSightError(
                f"retain={case.method.retain!r}: {case.name} keeps every visual token, there is nothing to measure"
            )
        reports.append(run.report)
    size = prompt["input_ids"].numel()
    device = ceilings(parts.layers[-1], size)
    turns = [("dense", 0), *((kind, i) for i in range(len(cases)) for kind in ("sparse", "bare"))]
    turns += [("dense fast", 0)] if fast else []
    times = {turn: Times() for turn in turns}
    uses: list[FastUse | None] = [None] * len(cases)
    shuffle = random.Random(0)
    for count in range(repeats + 1):
        for turn in shuffle.sample(turns, len(turns)):
            kind, i = turn
            kept = times[turn] if count else Times()
            with ExitStack() as stack:
                handle: Sparsified | None = None
                if kind == "sparse":
                    handle = stack.enter_context(_sparse(model, cases[i].method, text_tower, fast))
                elif kind == "dense fast":
                    handle = stack.enter_context(sparsify(model, retain=1.0, fast=fast or False))
                elif kind == "bare":
                    stack.enter_context(shortened(decoder, *_lengths(reports[i])))
                if fast and handle is not None:
                    _build(model, prompt)
                stack.enter_context(timed_decoder(decoder, kept))
                run_once(model, prompt, 0 if kind == "bare" else steps, kept)
                if kind == "sparse" and handle is not None:
                    uses[i] = handle.fast
            if progress is not None:
                progress()
    device = device.best(ceilings(parts.layers[-1], size))
    limits = _products_limits(parts, reports)
    rows = []
    for i, (case, report) in enumerate(zip(cases, reports, strict=True)):
        row = {
            "method": case.name,
            "retain": case.retain,
            "batch": len(report.samples),
            **_times(times["dense", 0], times["sparse", i], times["bare", i], _macs_limit(report)),
            **_overhead(model, prompt, decoder, case.method, text_tower, fast),
            **limits[i],
            **_counts(report),
            "cost_deviation": case.deviation,
            "settings": case.method.to_dict(),
        }
        use = uses[i]
        if use is not None:
            row["fast"] = _fast(times["dense", 0], times["dense fast", 0], times["sparse", i], use)
        row |= _limits(device, parts, report, counted[0], counted[i + 1], row)
        rows.append(row)
    return rows


def _products_limits(parts: ModelParts, reports: Sequence[Report]) -> list[dict[str, float | None]]:
    """Dense over sparse time of the layers' matrix products alone, of each case; None where there are none to time."""
    layers = list(parts.layers)
    if not all(linears(layer) for layer in layers):
        return [{"products_limit": None, "products_limit_cpu": None} for _ in reports]
    rows = [
        [len(reports[0].samples) * n for n in lengths]
        for lengths in ([_lengths(reports[0])[0]] * len(parts.layers), *(_lengths(x)[1] for x in reports))
    ]
    rounds = [[milliseconds(*products(layers, n)) for n in rows] for _ in range(SHARES)]
    return [
        {
            f"products_limit{end}": median(took[0][clock] / took[i][clock] for took in rounds)
            for clock, end in ((0, ""), (1, "_cpu"))
        }
        for i in range(1, len(rows))
    ]


def _limits(
    device: Ceilings,
    parts: ModelParts,
    report: Report,
    dense: Footprint,
    sparse: Footprint,
    row: dict[str, Any],
) -> dict[str, Any]:
    """What was counted in a case, beside what arithmetic and this device allow."""
    shape, batch = decoder_shape(parts), len(report.samples)
    weights = [parameter_bytes(layer) for layer in parts.layers]
    length, lengths = _lengths(report)
    made: dict[str, Any] = {"weights_bytes": parameter_bytes(parts.given)}
    bounds = []
    for kind, seen, entering in (("dense", dense, [length] * len(lengths)), ("sparse", sparse, lengths)):
        made[f"peak_{kind}_bytes"] = seen.peak
        made[f"least_peak_{kind}_bytes"] = batch * shape.least_peak_bytes(entering)
        made[f"kv_held_{kind}_bytes"] = seen.kv
        made[f"kernels_{kind}"], made[f"operations_{kind}"] = seen.decoder.kernels, seen.decoder.operations
        bounds.append(bound(device, shape, weights, entering, batch, seen.decoder.kernels))
        made[f"token_bound_{kind}_ms"] = token_ms(device, sum(weights), row[f"kv_{kind}_bytes"])
    return made | roofline(device, bounds[0], bounds[1], row)


def _lengths(report: Report) -> tuple[int, list[int]]:
    """Tokens of a sample of the batch (all are alike), and how many of them enter each layer."""
    sample = report.samples[0]
    return sample.text_tokens + sample.visual_tokens, [
        sample.text_tokens + v for v in sample.visual_per_layer
    ]


def _macs_limit(report: Report) -> float:
    return report.macs_dense / sum(s.macs_sparse - s.macs_scoring for s in report.samples)


def _times(dense: Times, sparse: Times, bare: Times, limit: float) -> dict[str, Any]:
    def ratios(phase: str, to: Times, of: str = "wall") -> list[float]:
        return [x / y for x, y in zip(getattr(dense, of)[phase], getattr(to, of)[phase], strict=True)]

    def ratio(phase: str, to: Times, of: str = "wall") -> float:
        return median(ratios(phase, to, of))

    row: dict[str, Any] = {}
    spreads: dict[str, dict[str, float]] = {}
    for name, phase in (("first_token", FIRST), ("prefill", PREFILL), ("token", TOKEN)):
        for kind, times in (("dense", dense), ("sparse", sparse)):
            wall, cpu = times.wall[phase], times.cpu[phase]
            row[f"{name}_{kind}_ms"] = median(wall) if wall else None
            row[f"{name}_{kind}_cpu_ms"] = median(cpu) if cpu else None
            if wall:
                spreads[f"{name}_{kind}_ms"] = spread(wall)
    spreads["first_token_speedup"] = spread(ratios(FIRST, sparse))
    spreads["prefill_speedup"] = spread(ratios(PREFILL, sparse))
    speedup, cpu_speedup = ratio(PREFILL, sparse), ratio(PREFILL, sparse, "cpu")
    return {
        **row,
        "first_token_speedup": ratio(FIRST, sparse),
        "first_token_speedup_cpu": ratio(FIRST, sparse, "cpu"),
        "prefill_speedup": speedup,
        "prefill_speedup_cpu": cpu_speedup,
        "macs_limit": limit,
        "prefill_ratio_to_limit": speedup / limit,
        "prefill_ratio_to_limit_cpu": cpu_speedup / limit,
        "measured_limit": ratio(PREFILL, bare),
        "measured_limit_cpu": ratio(PREFILL, bare, "cpu"),
        "spread": spreads,
    }


def _fast(dense: Times, on_path: Times, sparse: Times, use: FastUse) -> dict[str, Any]:
    """The dense model on the fast path, between the dense model as it is and the sparse one on that path."""
    found: dict[str, Any] = {
        "segments": len(use.ran),
        "programs": sum(use.ran),
        "why_not": list(dict.fromkeys(use.why_not)),
    }
    for of, end in (("wall", ""), ("cpu", "_cpu")):
        for name, phase in (("first_token", FIRST), ("prefill", PREFILL)):
            plain, fast, ours = (getattr(times, of)[phase] for times in (dense, on_path, sparse))
            found[f"{name}_dense{end}_ms"] = median(fast)
            found[f"{name}_speedup{end}"] = median(x / y for x, y in zip(fast, ours, strict=True))
            found[f"{name}_dense_speedup{end}"] = median(x / y for x, y in zip(plain, fast, strict=True))
    return found


def _sparse(model: Any, method: Method, text_tower: TextTower | None, fast: Fast | None = None) -> Sparsified:
    tower: dict[str, Any] = {"text_tower": text_tower} if method.requires_text_tower else {}
    return sparsify(model, method, fast=fast or False, **tower)


def _build(model: Any, prompt: dict[str, Any]) -> None:
    """The first prefill shows whether segments can be programs, the second builds them."""
    for _ in range(2):
        run_once(model, prompt, 0)


def _overhead(
    model: Any,
    prompt: dict[str, Any],
    decoder: nn.Module,
    method: Method,
    text_tower: TextTower | None,
    fast: Fast | None,
) -> dict[str, Any]:
    """What the mechanism takes of the sparse prefill: by the wall clock, and of processor time."""
    found: dict[str, Any] = {}
    with _sparse(model, method, text_tower, fast) as run:
        if fast:
            _build(model, prompt)
        for of, end in (("wall", ""), ("cpu", "_cpu")):
            spent: list[dict[str, float]] = []
            whole: list[float] = []
            for _ in range(SHARES):
                alone = Times()
                with run.measure_sections(of == "cpu") as sections, timed_decoder(decoder, alone):
                    run_once(model, prompt, 0)
                whole.append(getattr(alone, of)[PREFILL][0])
                spent.append({k: 1e3 * sections.get(k, 0.0) for k in PARTS})
            shares = {
                k: median(s[k] / w for s, w in zip(spent, whole, strict=True)) for k in PARTS if k != LAYOUT
            }
            found[f"overhead_share{end}"] = sum(shares.values())
            found[f"overhead_parts{end}"] = shares
            found[f"overhead_us{end}"] = {k: 1e3 * median(s[k] for s in spent) for k in PARTS}
    return found


def _counts(report: Report) -> dict[str, Any]:
    """What follows from sizes alone; tokens are those of one sample."""
    sample = report.samples[0]
    return {
        "visual": sample.visual_tokens,
        "text": sample.text_tokens,
        "depth": len(sample.visual_per_layer),
        "equal_tokens": sample.equal_tokens,
        "equal_tokens_entering": sample.equal_tokens_entering,
        "visual_per_layer": sample.visual_per_layer,
        "macs_dense": report.macs_dense,
        "macs_sparse": report.macs_sparse,
        "macs_overhead": sum(s.macs_scoring for s in report.samples),
        "kv_dense_bytes": report.kv_bytes_dense,
        "kv_sparse_bytes": report.kv_bytes_sparse,
    }
