"""The clock: what belongs to which phase, by which clock, and the memory that work takes."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from sparsesight.bench.timing import (
    DECODE,
    FIRST,
    PREFILL,
    TOKEN,
    Mark,
    Times,
    mark,
    milliseconds,
    peak_bytes,
    settle,
    spread,
    timed_decoder,
)
from sparsesight.bench.work import run_once
from sparsesight.random_models import Shape, random_llava
from tests.bench.small import SMALL

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def small() -> tuple[Any, dict[str, Any]]:
    return random_llava(Shape.parse(SMALL), torch.float32, "cpu")


def test_every_phase_is_told_apart(small: tuple[Any, dict[str, Any]]) -> None:
    model, prompt = small
    times = Times()
    with timed_decoder(model.get_decoder(), times):
        cache = run_once(model, prompt, 3, times)
    for of in (times.wall, times.cpu):
        assert {phase: len(values) for phase, values in of.items()} == {
            FIRST: 1,
            PREFILL: 1,
            TOKEN: 3,
            DECODE: 3,
        }
    assert times.wall[FIRST][0] > times.wall[PREFILL][0]
    assert all(whole > part for whole, part in zip(times.wall[TOKEN], times.wall[DECODE], strict=True))
    assert cache.get_seq_length() == 48 + 3
    assert not model.get_decoder()._forward_hooks


def test_times_can_be_had_before_the_end(small: tuple[Any, dict[str, Any]]) -> None:
    model, prompt = small
    times = Times()
    with timed_decoder(model.get_decoder(), times) as fill:
        run_once(model, prompt, 1)
        fill()
        assert [len(times.wall[phase]) for phase in (PREFILL, DECODE)] == [1, 1]
        run_once(model, prompt, 0)
    assert [len(times.wall[phase]) for phase in (PREFILL, DECODE)] == [2, 1]  # nothing twice


def test_sleep_is_on_the_wall_clock_alone() -> None:
    start = mark(CPU)
    time.sleep(0.05)
    wall, cpu = milliseconds(start, mark(CPU))
    assert wall >= 50 > cpu


def test_events_decide_where_there_are_some() -> None:
    class Event:
        waited = False

        def synchronize(self) -> None:
            self.waited = True

        def elapsed_time(self, other: Event) -> float:
            assert other.waited and not self.waited
            return 7.5

    assert milliseconds(Mark(0.0, 0.0, Event()), Mark(1.0, 0.25, Event())) == (7.5, 250.0)


def test_peak_counts_what_work_makes() -> None:
    held = torch.zeros(1000)
    assert peak_bytes(CPU, lambda: held + torch.zeros(1000)) == 8000
    assert spread([3.0, 1.0, 2.0, 5.0, 4.0]) == {"min": 1.0, "q1": 2.0, "median": 3.0, "q3": 4.0, "max": 5.0}
    assert set(spread([7.0]).values()) == {7.0}
    calm, stalled = (spread([*[2.0, 2.1, 2.2, 2.3, 2.4, 2.5], x]) for x in (2.6, 0.2))
    assert stalled["min"] == 0.2 and stalled["q1"] > calm["min"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_is_timed_on_the_device() -> None:
    """Sixteen products cost the device more than two, though the host only puts them into its queue."""
    device = torch.device("cuda")
    x = torch.randn(4096, 4096, device=device)

    def products(count: int) -> float:
        settle(device)
        start = mark(device)
        for _ in range(count):
            x @ x
        return milliseconds(start, mark(device))[0]

    products(2)
    assert products(16) > 4 * products(2) > 0
    assert peak_bytes(device, lambda: torch.zeros(1 << 20, device=device)) == 4 << 20
