"""What methods keep on stage inputs built by hand."""

from __future__ import annotations

from typing import Any

from sparsesight import Method

from .stages import Sample, build


def kept(method: Method, *samples: Sample, **changes: Any) -> list[list[int]]:
    """Which visual tokens stay, for each sample, counted from zero."""
    _, stage = build(method, samples, **changes)
    selection = method.select(stage)
    return [o[k].tolist() for o, k in zip(stage.origin, selection.keep, strict=True)]


def check_any_batch(method: Method, seed: int) -> None:
    """On random input: exact counts, and every sample keeps in a batch what it keeps alone."""
    sizes = [(3, 40, 6), (0, 17, 1), (5, 64, 2), (1, 5, 9), (2, 1, 3)]
    samples = [Sample.random(10 * seed + i, *size) for i, size in enumerate(sizes)]
    together = kept(method, *samples)
    _, stage = build(method, samples)
    assert stage.planned is not None
    assert tuple(map(len, together)) == stage.planned.tokens_out
    assert 0 < len(together[2]) < 64, "nothing was chosen"
    for sample, mine in zip(samples, together, strict=True):
        assert kept(method, sample) == [mine]
