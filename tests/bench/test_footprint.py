"""A counted prefill."""

from __future__ import annotations

import torch

from sparsesight import sparsify
from sparsesight.bench.footprint import footprint
from sparsesight.profiling.peak_memory import Memory
from sparsesight.random_models import Shape, random_llava
from tests.bench.small import SMALL


def test_peak_cache_and_kernels() -> None:
    model, prompt = random_llava(Shape.parse(SMALL), torch.float32, "cpu")
    decoder = model.get_decoder()
    found = footprint(model, prompt, decoder)
    with torch.no_grad(), Memory() as memory:
        model(**prompt, use_cache=True, logits_to_keep=1)
    assert found.peak == memory.peak
    assert found.kv == 4 * 2 * 48 * 64 * 4  # layers, keys and values, tokens, width, bytes
    with sparsify(model, "random", retain=(12, 8), layers=(0, 1)) as run:
        sparse = footprint(model, prompt, decoder)
    assert sparse.kv == run.report.kv_bytes_sparse
    assert sparse.decoder.kernels > found.decoder.kernels
    assert not decoder._forward_hooks and not decoder._forward_pre_hooks


def test_only_the_decoder_counts() -> None:
    """Neither the vision tower nor the vocabulary: four layers of seven matrices."""
    model, prompt = random_llava(Shape.parse(SMALL), torch.float32, "cpu")
    names = footprint(model, prompt, model.get_decoder()).decoder.names
    assert sum(names.get(name, 0) for name in ("mm", "addmm", "linear")) == 4 * 7
