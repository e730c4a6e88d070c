"""The prefill's peak memory is below the dense one at every budget; cached bytes are those of the report."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from sparsesight import sparsify
from sparsesight.profiling.peak_memory import Memory
from sparsesight.random_models import Shape, random_llava, repeat_prompt

SHAPE = Shape.parse("layers=10,hidden=192,ffn=512,visual=100,text=24,heads=6")


@lru_cache(maxsize=2)
def built(attention: str) -> tuple[Any, dict[str, Any]]:
    return random_llava(SHAPE, torch.float32, "cpu", attention)


@lru_cache(maxsize=8)
def dense_peak(attention: str, batch: int) -> int:
    model, prompt = built(attention)
    return peak(model, repeat_prompt(prompt, batch))[0]


def peak(model: Any, prompt: dict[str, Any]) -> tuple[int, DynamicCache]:
    """Most bytes at once of a prefill from pictures to the first token's logits, and its cache."""
    with torch.no_grad(), Memory() as memory:
        cache = model(**prompt, use_cache=True, logits_to_keep=1).past_key_values
    return memory.peak, cache


@pytest.mark.parametrize(
    ("attention", "method", "trim"),
    [("eager", "sparsevlm+", False), ("sdpa", "sparsevlm", True), ("sdpa", "sparsevlm+", False)],
)
def test_peak_is_below_dense_at_every_budget(attention: str, method: str, trim: bool) -> None:
    """And grows with none; what is cached at the end is what the report says, to the byte."""
    model, prompt = built(attention)
    peaks = [dense_peak(attention, 1)]
    for retain in (97, 85, 70, 40, 20):
        with sparsify(model, method, retain=retain, trim_early_layers=trim) as run:
            most, cache = peak(model, prompt)
        assert most < peaks[0] and most <= peaks[-1], retain
        peaks.append(most)
        stored = [x for layer in cache.layers for x in (layer.keys, layer.values)]
        assert [layer.keys.shape[2] for layer in cache.layers] == list(run.report.kv_lengths)
        assert sum(x.untyped_storage().nbytes() for x in stored) == run.report.kv_bytes_sparse
    assert peaks[-1] < 0.65 * peaks[0]


def test_a_batch_peaks_below_dense() -> None:
    model, prompt = built("sdpa")
    several = repeat_prompt(prompt, 3)
    several["attention_mask"][1, :9] = 0  # padded, so that masks have to be made
    with torch.no_grad(), Memory() as memory:
        model(**several, use_cache=True, logits_to_keep=1)
    for retain in (90, 40):
        with sparsify(model, retain=retain) as run:
            most, cache = peak(model, several)
        assert most < memory.peak
        measured = sum(x.numel() * x.element_size() for y in cache.layers for x in (y.keys, y.values))
        assert measured == run.report.kv_bytes_sparse


def test_what_is_kept_for_the_report_is_little() -> None:
    """Once the outputs are dropped: less than one layer's keys of the visual tokens, and no cache."""
    model, prompt = built("sdpa")
    with sparsify(model, retain=40) as run, Memory() as memory:
        with torch.no_grad():
            model(**prompt, use_cache=True, logits_to_keep=1)
        assert run.kept and memory.now < 100 * 192 * 4


def test_keeping_everything_costs_next_to_nothing() -> None:
    """The peak is the dense one and a little more: so the checks above can fail."""
    model, prompt = built("sdpa")
    with sparsify(model, retain=1.0):
        most, _ = peak(model, prompt)
    assert dense_peak("sdpa", 1) <= most < 1.02 * dense_peak("sdpa", 1)
