"""One thread for the model, and stopping."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, Thread
from typing import Any

import pytest
import torch
from torch import nn

from sparsesight.demo.running import OneThread, Stopped, interruptible


def put_all(*values: int) -> Callable[[Callable[[int], None]], None]:
    def work(put: Callable[[int], None]) -> None:
        for value in values:
            put(value)

    return work


def test_results_come_in_order() -> None:
    thread = OneThread()
    assert list(thread.stream(put_all(1, 2, 3), Event())) == [1, 2, 3]
    thread.close()


def test_an_error_of_the_work_is_raised_after_its_results() -> None:
    def work(put: Callable[[int], None]) -> None:
        put(1)
        raise KeyError("x")

    stream = OneThread().stream(work, Event())
    assert next(stream) == 1
    with pytest.raises(KeyError):
        next(stream)


def test_none_says_that_time_has_passed() -> None:
    go = Event()

    def work(put: Callable[[int], None]) -> None:
        go.wait(10)
        put(1)

    stream = OneThread().stream(work, Event(), tick=0.01)
    assert next(stream) is None
    go.set()
    assert [x for x in stream if x is not None] == [1]


def test_stopped_work_is_not_begun_and_does_not_wait_for_others() -> None:
    thread, stop, go, begun = OneThread(), Event(), Event(), []

    def busy(put: Callable[[int], None]) -> None:
        put(0)
        go.wait(10)

    first = thread.stream(busy, Event(), tick=0.01)
    assert next(first) == 0
    second: Any = thread.stream(lambda put: begun.append(1), stop, tick=0.01)
    assert next(second) is None
    stop.set()
    with pytest.raises(Stopped):
        list(second)
    go.set()
    list(first)
    assert list(thread.stream(put_all(5), Event())) == [5]  # in turn, after the one that was stopped
    assert not begun


def test_who_goes_away_stops_the_work() -> None:
    stop, ended = Event(), Event()

    def work(put: Callable[[int], None]) -> None:
        put(1)
        assert stop.wait(10)
        ended.set()

    stream: Any = OneThread().stream(work, stop)
    assert next(stream) == 1
    stream.close()
    assert stop.is_set() and ended.wait(10)


def test_work_of_two_pages_never_overlaps() -> None:
    thread, inside, most = OneThread(), [0], [0]

    def work(put: Callable[[int], None]) -> None:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        for _ in range(100):
            put(0)
        inside[0] -= 1

    pages = [Thread(target=lambda: list(thread.stream(work, Event()))) for _ in range(4)]
    for page in pages:
        page.start()
    for page in pages:
        page.join()
    assert most == [1]


def test_a_stop_is_seen_within_a_layer_and_leaves_no_hook() -> None:
    stop, reached = Event(), []

    class Layer(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            reached.append(self)
            if len(reached) == 2:
                stop.set()
            return x

    model = nn.Sequential(*(Layer() for _ in range(4)))
    with interruptible(model, stop), pytest.raises(Stopped):
        model(torch.zeros(1))
    assert len(reached) == 2
    assert not any(layer._forward_pre_hooks for layer in model)
