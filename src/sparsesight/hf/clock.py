"""Measuring where the time goes, when somebody asks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Clock:
    """Collects seconds per named section while ``sections`` is a dict; costs nothing while it is None."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.sections: dict[str, float] | None = None
        self.processor = False  # sections count processor time of all threads instead of the wall clock

    @contextmanager
    def __call__(self, section: str) -> Iterator[None]:
        if self.sections is None:
            yield
            return
        read = time.process_time if self.processor else self.now
        start = read()
        try:
            yield
        finally:
            self.sections[section] = self.sections.get(section, 0.0) + read() - start

    def now(self) -> float:
        """Seconds, once the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
