"""Time and memory of a device: a CPU by wall clock and processor time, CUDA by events."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

import torch
from torch import nn

from ..profiling.peak_memory import Memory

FIRST = "first token"  # the whole call: vision tower, decoder, vocabulary, and the choice of the token
PREFILL = "prefill"  # the decoder in that call, from before the first hook to after the last
TOKEN = "token"  # the whole call of every further token
DECODE = "decode"  # the decoder in such a call
PHASES = (FIRST, PREFILL, TOKEN, DECODE)


@dataclass(frozen=True)
class Mark:
    """A moment: seconds of the wall clock, of the processor (all threads), and of the CUDA stream if there is one."""

    wall: float
    cpu: float
    event: Any = None


def mark(device: torch.device) -> Mark:
    """Now, without waiting: on CUDA, the moment at which the device comes here."""
    event = None
    if device.type == "cuda":
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(device))
    return Mark(time.perf_counter(), time.process_time(), event)


def settle(device: torch.device) -> None:
    """Wait until the device has finished, so that none of its work is counted later."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def milliseconds(start: Mark, end: Mark) -> tuple[float, float]:
    """Between two marks: the device's time (the wall clock on a CPU), and processor time of the host."""
    cpu = 1e3 * (end.cpu - start.cpu)
    if end.event is None:
        return 1e3 * (end.wall - start.wall), cpu
    end.event.synchronize()
    return start.event.elapsed_time(end.event), cpu


@dataclass
class Times:
    """Milliseconds, one entry per run: by the wall clock (CUDA: by events), and processor time of all threads."""

    wall: dict[str, list[float]] = field(default_factory=lambda: {x: [] for x in PHASES})
    cpu: dict[str, list[float]] = field(default_factory=lambda: {x: [] for x in PHASES})

    def add(self, phase: str, start: Mark, end: Mark) -> None:
        wall, cpu = milliseconds(start, end)
        self.wall[phase].append(wall)
        self.cpu[phase].append(cpu)


@contextmanager
def timed_decoder(decoder: nn.Module, times: Times) -> Iterator[Callable[[], None]]:
    """Time every call of the decoder, from before the first hook to after the last.

    ``times`` is filled at the end, and whenever what is yielded is called, which waits for the device.
    """
    device = next(decoder.parameters()).device
    started: list[Mark] = []
    seen: list[tuple[str, Mark, Mark]] = []

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        started.append(mark(device))

    def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        end = mark(device)
        x = kwargs.get("inputs_embeds")
        phase = PREFILL if x is not None and x.shape[1] > 1 else DECODE
        seen.append((phase, started.pop(), end))

    def fill() -> None:
        for phase, start, end in seen:
            times.add(phase, start, end)
        seen.clear()

    hooks = [
        decoder.register_forward_pre_hook(before, with_kwargs=True, prepend=True),
        decoder.register_forward_hook(after, with_kwargs=True),
    ]
    settle(device)
    try:
        yield fill
    finally:
        for hook in hooks:
            hook.remove()
        fill()


def peak_bytes(device: torch.device, work: Callable[[], object]) -> int:
    """The most that tensors took at once while ``work`` ran, beyond what was there before.

    On CUDA it is what the allocator gave out; elsewhere the storages are counted (:class:`Memory`).
    """
    if device.type == "cuda":
        settle(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        settle(device)
        return torch.cuda.max_memory_allocated(device) - before
    with Memory() as memory:
        work()
    return memory.peak


def spread(values: Sequence[float]) -> dict[str, float]:
    """Minimum, quartiles and maximum; ``q1`` and ``q3`` hold the middle half of the values, in spite of a stall."""
    first, _, third = quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3
    return {"min": min(values), "q1": first, "median": median(values), "q3": third, "max": max(values)}
