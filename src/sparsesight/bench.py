"""Dense against sparse on one machine: interleaved runs, medians with spread, beside the FLOPs-implied limit."""

from __future__ import annotations

import platform
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import nn

from .budget import Retain
from .errors import SparseSightError
from .hf.clock import Clock
from .hf.families import anatomy
from .hf.shorten import NOT_ROWS, take_rows
from .hf.sparsify import sparsify
from .memory import Memory

DECODE = "decode"
PREFILL = "prefill"


@dataclass
class Times:
    """Milliseconds of the decoder, one entry per run: wall clock and processor time of all threads."""

    wall: dict[str, list[float]] = field(default_factory=lambda: {PREFILL: [], DECODE: []})
    cpu: dict[str, list[float]] = field(default_factory=lambda: {PREFILL: [], DECODE: []})


@contextmanager
def timed_decoder(decoder: nn.Module, times: Times) -> Iterator[None]:
    """Time every call of the decoder, from before the first hook to after the last."""
    started: list[tuple[float, float]] = []
    clock = Clock(next(decoder.parameters()).device)

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        started.append((clock.now(), time.process_time()))

    def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        wall, cpu = started.pop()
        x = kwargs.get("inputs_embeds")
        phase = PREFILL if x is not None and x.shape[1] > 1 else DECODE
        times.wall[phase].append(1e3 * (clock.now() - wall))
        times.cpu[phase].append(1e3 * (time.process_time() - cpu))

    hooks = [
        decoder.register_forward_pre_hook(before, with_kwargs=True, prepend=True),
        decoder.register_forward_hook(after, with_kwargs=True),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def shortened(decoder: nn.Module, lengths: Sequence[int]) -> Iterator[None]:
    """Give layer ``i`` only the first ``lengths[i]`` rows: the same arithmetic as pruning, with nothing chosen.

    What this costs is the ceiling of this machine for that schedule: short inputs use its arithmetic less well.
    """

    def shorten(n: int) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
            hidden = args[0]
            rows = torch.arange(n, device=hidden.device).expand(hidden.shape[0], -1)
            mask = kwargs.get("attention_mask")
            kwargs = {k: take_rows(v, rows, length) for k, v in kwargs.items() if k not in NOT_ROWS}
            kwargs["attention_mask"] = None if mask is None else mask[..., :n, :n]
            return (hidden[:, :n],), kwargs

        return hook

    layers: Any = decoder.layers
    length = lengths[0]
    hooks = [
        layer.register_forward_pre_hook(shorten(n), with_kwargs=True)
        for layer, n in zip(layers, lengths, strict=True)
        if n < length
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def run_once(model: Any, prompt: dict[str, Any], steps: int) -> Any:
    """A prefill and ``steps`` greedy decoding steps; returns the cache."""
    out = model(**prompt, use_cache=True, logits_to_keep=1)
    mask = prompt["attention_mask"]
    for _ in range(steps):
        token = out.logits[:, -1:].argmax(-1)
        mask = torch.cat((mask, mask.new_ones(mask.shape[0], 1)), 1)
        position = mask.sum(1, keepdim=True) - 1
        out = model(
            input_ids=token, attention_mask=mask, position_ids=position, past_key_values=out.past_key_values
        )
    return out.past_key_values


def spread(values: Sequence[float]) -> dict[str, float]:
    """Minimum, median, maximum."""
    return {"min": min(values), "median": median(values), "max": max(values)}


def bench(
    model: Any,
    prompt: dict[str, Any],
    retains: Sequence[Retain],
    *,
    method: str = "sparsevlm+",
    options: dict[str, Any] | None = None,
    repeats: int = 7,
    steps: int = 16,
    progress: Any = None,
) -> list[dict[str, Any]]:
    """Measure dense and every ``retain`` in one process, taking turns in random order.

    Args:
        model: a vision-language model.
        prompt: its inputs; ``attention_mask`` included.
        retains: budgets, one row each.
        method, options: as for :func:`sparsesight.sparsify`.
        repeats: counted turns, after one that is not.
        steps: decoding steps per turn.
        progress: called with no arguments after each run.

    Returns:
        One dict per budget; times are medians in milliseconds, with their spread under ``spread``. Ratios are medians
        of the ratios within a turn, so that a machine that drifts does not bend them; they come from the wall clock,
        and ``*_cpu`` are the same from processor time, which a loaded machine disturbs less.
        ``flops_limit`` is arithmetic (without the method's own); ``measured_limit`` is what this machine reaches when
        the same layers just get shorter inputs (:func:`shortened`). ``peak_*_bytes`` are the most that tensors took at
        once in a whole prefill, vision tower and cache included, weights not.
    """
    decoder = anatomy(model).decoder
    options = options or {}
    lengths: dict[Retain, list[int]] = {}
    peaks: dict[Retain | None, int] = {}
    with Memory() as memory:
        run_once(model, prompt, 0)
    peaks[None] = memory.peak
    for retain in retains:  # a budget that cannot be met fails now, not after minutes
        with sparsify(model, method, retain=retain, **options) as run, Memory() as memory:
            run_once(model, prompt, 0)
        peaks[retain] = memory.peak
        if not run.kept:
            raise SparseSightError(
                f"retain={retain!r}: keeps every visual token, there is nothing to measure"
            )
        sample = run.report.samples[0]
        lengths[retain] = [sample.text_tokens + v for v in sample.visual_per_layer]
    turns: list[tuple[str, Retain | None]] = [("dense", None)]
    turns += [(kind, retain) for retain in retains for kind in ("sparse", "bare")]
    times = {turn: Times() for turn in turns}
    shuffle = random.Random(0)
    for count in range(repeats + 1):
        for turn in shuffle.sample(turns, len(turns)):
            kind, budget = turn
            with ExitStack() as stack:
                if kind == "sparse":
                    stack.enter_context(sparsify(model, method, retain=budget, **options))
                elif kind == "bare" and budget is not None:
                    stack.enter_context(shortened(decoder, lengths[budget]))
                stack.enter_context(timed_decoder(decoder, times[turn] if count else Times()))
                run_once(model, prompt, 0 if kind == "bare" else steps)
            if progress is not None:
                progress()
    rows = [_row(model, prompt, decoder, retain, times, method, options) for retain in retains]
    for row in rows:
        row |= {"peak_dense_bytes": peaks[None], "peak_sparse_bytes": peaks[row["retain"]]}
    return rows


def _row(
    model: Any,
    prompt: dict[str, Any],
    decoder: nn.Module,
    retain: Retain,
    times: dict[tuple[str, Retain | None], Times],
    method: str,
    options: dict[str, Any],
) -> dict[str, Any]:
    shares: list[dict[str, float]] = []
    with sparsify(model, method, retain=retain, **options) as run:
        for _ in range(3):
            alone = Times()
            with run.measure_sections() as sections, timed_decoder(decoder, alone):
                run_once(model, prompt, 0)
            shares.append({k: 1e3 * v / alone.wall[PREFILL][0] for k, v in sections.items()})
        report = run.report
    parts = {k: median(s.get(k, 0.0) for s in shares) for k in ("raters", "scoring", "gather", "masks")}
    dense, sparse, bare = times["dense", None], times["sparse", retain], times["bare", retain]
    limit = report.flops_dense / sum(s.flops_sparse - s.flops_scoring for s in report.samples)

    def ratio(of: str, to: Times) -> float:
        pairs = zip(getattr(dense, of)[PREFILL], getattr(to, of)[PREFILL], strict=True)
        return median(x / y for x, y in pairs)

    speedup, cpu_speedup = ratio("wall", sparse), ratio("cpu", sparse)
    decode = bool(dense.wall[DECODE])
    return {
        "retain": retain,
        "prefill_dense_ms": median(dense.wall[PREFILL]),
        "prefill_sparse_ms": median(sparse.wall[PREFILL]),
        "prefill_speedup": speedup,
        "prefill_speedup_cpu": cpu_speedup,
        "flops_limit": limit,
        "prefill_ratio_to_limit": speedup / limit,
        "prefill_ratio_to_limit_cpu": cpu_speedup / limit,
        "measured_limit": ratio("wall", bare),
        "measured_limit_cpu": ratio("cpu", bare),
        "overhead_share": sum(parts.values()),
        "overhead_parts": parts,
        "decode_dense_ms": median(dense.wall[DECODE]) if decode else None,
        "decode_sparse_ms": median(sparse.wall[DECODE]) if decode else None,
        "decode_dense_cpu_ms": median(dense.cpu[DECODE]) if decode else None,
        "decode_sparse_cpu_ms": median(sparse.cpu[DECODE]) if decode else None,
        "kv_dense_bytes": report.kv_bytes_dense,
        "kv_sparse_bytes": report.kv_bytes_sparse,
        "visual_per_layer": report.samples[0].visual_per_layer,
        "spread": {
            "prefill_dense_ms": spread(dense.wall[PREFILL]),
            "prefill_sparse_ms": spread(sparse.wall[PREFILL]),
            "decode_dense_ms": spread(dense.wall[DECODE]) if decode else None,
            "decode_sparse_ms": spread(sparse.wall[DECODE]) if decode else None,
        },
    }


def environment(device: str, dtype: torch.dtype) -> dict[str, Any]:
    """Machine and versions, to stand beside every number."""
    import transformers

    from . import __version__

    name = torch.cuda.get_device_name() if device.startswith("cuda") else _processor()
    return {
        "device": name,
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "sparsesight": __version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(x.split(":", 1)[1].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
