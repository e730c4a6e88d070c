"""Long clips: what scoring and merging make grows linearly with the visual tokens."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from sparsesight import Method, Random, SparseVLM, SparseVLMPlus, ops
from sparsesight.profiling.peak_memory import Memory
from tests.methods.stages import Sample, build

METHODS: list[Method] = [
    SparseVLM(0.1, recycle=0.3),
    SparseVLM.video(),
    SparseVLMPlus(0.1),
    Random(0.1),
    SparseVLMPlus(0.1, per_frame=True),
]


def cost(method: Method, visual: int) -> tuple[int, int]:
    """Bytes of the largest tensor, and most bytes at once, of one stage on a clip of ``visual`` tokens."""
    sample = Sample.random(visual, 4, visual, 40)
    frame = (torch.arange(visual) // 64)[None]
    _, stage = build(
        method, [sample], layers=(1,), frame=frame, frame_tokens=torch.full_like(frame, 64), poison=0.0
    )
    x = sample.hidden[None]
    with Memory() as memory:
        method.select_raters(x[:, sample.at_visual], x[:, sample.at_text], stage.visual, stage.rater | True)
        method.select(stage)
    return memory.largest, memory.peak


@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{m.name}-{m.per_frame}-{m.data_dependent}")
def test_a_stage_is_linear(method: Method) -> None:
    small, large = cost(method, 2048), cost(method, 8192)
    assert large[0] <= 4.3 * small[0] and large[1] <= 4.3 * small[1]
    assert large[0] < 8192 * 8192  # not even one byte for every pair


def test_the_measure_sees_a_quadratic_scorer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops.rows, "ROW_CHUNK", 10**9)
    small, large = cost(METHODS[0], 2048), cost(METHODS[0], 8192)
    assert large[0] > 10 * small[0] and large[1] > 10 * small[1]


@pytest.mark.parametrize("chunk", [1, 5, 11, 12, 13])
def test_chunks_of_merging_do_not_show(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(3, 12, 4, generator=torch.Generator().manual_seed(0))

    def merge() -> ops.Merge:
        return ops.density_peaks_merge(x, [12, 9, 3], [2, 3, 1])

    whole = merge()
    monkeypatch.setattr(ops.rows, "ROW_CHUNK", chunk)
    check: Callable[..., None] = torch.testing.assert_close
    for a, b in zip(merge(), whole, strict=True):
        check(a, b)
