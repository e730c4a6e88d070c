"""Measures the time of parts of the mechanism, on request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

# The parts of the mechanism: where visual tokens are (before the decoder); what the vision and text towers said; which
# text rates; scores; which tokens stay and what the others become; shortening and restoring rows; masks and positions;
# what caches note; what hooks do beside that.
LAYOUT = "layout"
PARTS = (LAYOUT, "vision", "raters", "scoring", "selection", "gather", "masks", "cache", "rest")
NOTHING = nullcontext()


class SectionTimer(threading.local):
    """Collects seconds per named section while ``sections`` is a dict; costs next to nothing while it is None.

    Every thread has its own sections; work of other threads is not measured.

    A nested section is not counted in the outer one, so that all sections add up to the total.

    Args:
        device: of what is measured, or a function for its device now, if it may be moved.

    Attributes:
        open: the sections that are running, the innermost last.
    """

    def __init__(self, device: torch.device | Callable[[], torch.device]) -> None:
        self.device = device
        self.sections: dict[str, float] | None = None
        self.processor = False  # sections count processor time of all threads instead of the wall clock
        self.open: list[str] = []
        self._inner: list[float] = []  # seconds of the sections within each that is running

    def __call__(self, section: str) -> AbstractContextManager[None]:
        return NOTHING if self.sections is None else self._timed(section, self.sections)

    @contextmanager
    def _timed(self, section: str, sections: dict[str, float]) -> Iterator[None]:
        read = time.process_time if self.processor else self.now
        self.open.append(section)
        self._inner.append(0.0)
        start = read()
        try:
            yield
        finally:
            took = read() - start
            self.open.pop()
            sections[section] = sections.get(section, 0.0) + took - self._inner.pop()
            if self._inner:
                self._inner[-1] += took

    def now(self) -> float:
        """Seconds, after the device has finished its queued work."""
        device = self.device if isinstance(self.device, torch.device) else self.device()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()
