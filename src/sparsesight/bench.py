"""Dense against sparse on one machine: interleaved runs, medians with spread, beside the FLOPs-implied limit."""

from __future__ import annotations

import math
import platform
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import torch
from torch import nn

from .budget import Retain
from .errors import SparseSightError
from .hf.families import anatomy
from .hf.sparsify import sparsify

DECODE = "decode"
PREFILL = "prefill"


@dataclass(frozen=True)
class Shape:
    """Sizes of a random LLaVA. ``heads`` defaults to a head width of 64, ``kv_heads`` to ``heads``."""

    layers: int = 24
    hidden: int = 1024
    ffn: int = 2816
    visual: int = 576
    text: int = 64
    heads: int = 0
    kv_heads: int = 0

    @classmethod
    def parse(cls, text: str) -> Shape:
        """Read ``layers=24,hidden=1024,...``; what is not named keeps its default.

        Raises:
            SparseSightError: naming the part that is wrong and what is known.
        """
        values: dict[str, int] = {}
        for part in filter(None, (p.strip() for p in text.split(","))):
            name, _, value = part.partition("=")
            if name not in cls.__dataclass_fields__ or not value.isdigit() or not int(value):
                known = ", ".join(cls.__dataclass_fields__)
                raise SparseSightError(f"shape: {part!r} is not NAME=NUMBER with a name out of {known}")
            values[name] = int(value)
        shape = cls(**values)
        heads = shape.heads or max(shape.hidden // 64, 1)
        shape = cls(**{**asdict(shape), "heads": heads, "kv_heads": shape.kv_heads or heads})
        if shape.hidden % heads or shape.hidden // heads % 2 or heads % shape.kv_heads or shape.layers < 2:
            raise SparseSightError(
                f"shape: {shape} needs two layers or more, an even head width hidden / heads and kv_heads dividing heads"
            )
        return shape


def random_llava(
    shape: Shape, dtype: torch.dtype, device: str, attention: str = "sdpa"
) -> tuple[nn.Module, dict[str, Any]]:
    """A LLaVA of random weights with a thin vision tower, and a prompt of exactly that shape.

    Only the decoder is measured, so the tower is as small as it can be; 2880 tokens come from five 576-token pictures.
    """
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    side = max(s for s in range(1, math.isqrt(shape.visual) + 1) if shape.visual % (s * s) == 0)
    vision = CLIPVisionConfig(
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        image_size=2 * side,
        patch_size=2,
        projection_dim=8,
    )
    text = LlamaConfig(
        hidden_size=shape.hidden,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        vocab_size=1000,
        max_position_embeddings=shape.visual + shape.text + 4096,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=999,
        vision_feature_layer=-1,
        attn_implementation=attention,
    )
    torch.manual_seed(0)
    with torch.device(device):
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            model = LlavaForConditionalGeneration(config).eval()
        finally:
            torch.set_default_dtype(before)
    model.generation_config.eos_token_id = None
    ahead = min(shape.text // 2, 35)  # a system prompt before the picture, as LLaVA has
    ids = torch.randint(5, 900, (1, shape.visual + shape.text))
    ids[:, ahead : ahead + shape.visual] = 999
    pixels = torch.randn(shape.visual // side**2, 3, 2 * side, 2 * side, dtype=dtype)
    prompt = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
    return model, {k: v.to(device) for k, v in prompt.items()}


def repeat_prompt(prompt: dict[str, Any], batch: int) -> dict[str, Any]:
    """The same prompt ``batch`` times."""
    return {k: v.repeat(batch, *[1] * (v.ndim - 1)) for k, v in prompt.items()}


@dataclass
class Times:
    """Milliseconds of the decoder, one entry per run: wall clock and processor time of all threads."""

    wall: dict[str, list[float]] = field(default_factory=lambda: {PREFILL: [], DECODE: []})
    cpu: dict[str, list[float]] = field(default_factory=lambda: {PREFILL: [], DECODE: []})


@contextmanager
def timed_decoder(decoder: nn.Module, times: Times) -> Iterator[None]:
    """Time every call of the decoder, from before the first hook to after the last."""
    started: list[tuple[float, float]] = []
    device = next(decoder.parameters()).device

    def synchronise() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        synchronise()
        started.append((time.perf_counter(), time.process_time()))

    def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        synchronise()
        wall, cpu = started.pop()
        x = kwargs.get("inputs_embeds")
        phase = PREFILL if x is not None and x.shape[1] > 1 else DECODE
        times.wall[phase].append(1e3 * (time.perf_counter() - wall))
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
        One dict per budget; times are medians in milliseconds, with their spread under ``spread``. Ratios come from
        the wall clock; ``*_cpu`` are the same from processor time, which a loaded machine does not disturb.
    """
    decoder = anatomy(model).decoder
    options = options or {}
    for retain in retains:  # a budget that cannot be met fails now, not after minutes
        with sparsify(model, method, retain=retain, **options) as run:
            run_once(model, prompt, 0)
        if not run.kept:
            raise SparseSightError(
                f"retain={retain!r}: keeps every visual token, there is nothing to measure"
            )
    configurations: list[Retain | None] = [None, *retains]
    times = {c: Times() for c in configurations}
    shuffle = random.Random(0)
    for turn in range(repeats + 1):
        for configuration in shuffle.sample(configurations, len(configurations)):
            into = times[configuration] if turn else Times()
            if configuration is None:
                with timed_decoder(decoder, into):
                    run_once(model, prompt, steps)
            else:
                with sparsify(model, method, retain=configuration, **options), timed_decoder(decoder, into):
                    run_once(model, prompt, steps)
            if progress is not None:
                progress()
    return [_row(model, prompt, decoder, retain, times, method, options) for retain in retains]


def _row(
    model: Any,
    prompt: dict[str, Any],
    decoder: nn.Module,
    retain: Retain,
    times: dict[Retain | None, Times],
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
    dense, sparse = times[None], times[retain]
    limit = report.flops_dense / sum(s.flops_sparse - s.flops_scoring for s in report.samples)
    speedup = median(dense.wall[PREFILL]) / median(sparse.wall[PREFILL])
    cpu_speedup = median(dense.cpu[PREFILL]) / median(sparse.cpu[PREFILL])
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
