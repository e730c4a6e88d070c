"""What a device reaches at best: rates of what was really done. No test looks at how fast that is."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch import nn

from sparsesight.bench import ceilings as module
from sparsesight.bench.ceilings import Ceilings, ceilings, fastest, parameter_bytes
from sparsesight.random_models import Shape, random_llava
from tests.bench.small import SMALL

CPU = torch.device("cpu")


def test_the_products_of_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every matrix of the layer at its own shape, and never more rows than help."""
    monkeypatch.setitem(module.BUFFER, "cpu", 1 << 20)
    model, _ = random_llava(Shape.parse(SMALL + ",kv_heads=1,heads=2"), torch.float32, "cpu")
    seen: list[tuple[int, ...]] = []

    def one_second(device: torch.device, work: Any, threads: int | None = None) -> float:
        out = work()
        if isinstance(out, torch.Tensor) and out.ndim == 2 and out.shape[0] == 40:
            seen.append(tuple(out.shape))
        return 1.0

    monkeypatch.setattr(module, "fastest", one_second)
    layer = model.get_decoder().layers[0]
    found = ceilings(layer, 40)
    assert sorted(seen) == [
        (40, 32),
        (40, 64),
        (40, 64),
        (40, 96),
    ]  # k and v, q and o, down, gate and up: one of each
    shapes = {(64, 64): 2, (32, 64): 2, (96, 64): 2, (64, 96): 1}
    products = sum(40 * a * b * n for (a, b), n in shapes.items())
    assert found.macs == products / sum(shapes.values())
    assert found.bytes == 2 * (1 << 20)
    assert found.launch == 1 / module.LAUNCHES and found.serial
    monkeypatch.setitem(module.ROWS, "cpu", 8)
    assert ceilings(layer, 40).macs == products / 5 / sum(shapes.values())


def test_they_are_measured() -> None:
    model, _ = random_llava(Shape.parse(SMALL), torch.bfloat16, "cpu")
    found = ceilings(model.get_decoder().layers[0], 48)
    assert 0 < found.macs < 1e15 and 1e7 < found.bytes < 1e14 and 0 < found.launch < 0.1


def test_the_better_of_two() -> None:
    assert Ceilings(1, 20, 3, True).best(Ceilings(2, 10, 4, True)) == Ceilings(2, 20, 3, True)


def test_waiting_is_no_work() -> None:
    """On a CPU the processor is timed, so that what other programs do does not count."""
    assert fastest(CPU, lambda: time.sleep(0.01)) < 0.005


def test_bytes_of_parameters() -> None:
    layer = nn.Linear(3, 5)
    both = nn.ModuleList([layer, nn.Linear(3, 5)])
    assert parameter_bytes(layer) == 80
    both[1].weight = layer.weight
    assert parameter_bytes(both) == 100
