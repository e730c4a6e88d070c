"""The meter of the memory tests: it sees what is made, what is freed, and no storage twice."""

from __future__ import annotations

import torch

from sparsesight.profiling.peak_memory import Memory


def test_memory_is_counted() -> None:
    old = torch.ones(1000)
    with Memory() as memory:
        a = torch.zeros(256)
        assert memory.now == memory.peak == 1024
        b = a[:10].view(2, 5).add_(1)  # views and changes in place make nothing
        old += 1
        assert memory.now == 1024
        c = a * 2
        assert memory.now == 2048
        del a
        assert memory.now == 2048  # the view holds it
        del b
        assert memory.now == 1024
        c = c + 1  # both are there for a moment
        assert memory.now == 1024 and memory.peak == 2048
        (c + 1) * (c + 2)
        assert memory.now == 1024 and memory.peak == 4096
