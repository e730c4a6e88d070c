"""Work that takes long, for several pages at once: one thread owns the model, and every page can stop what it began."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from threading import Event, Lock
from typing import Any, TypeVar

from torch import nn

T = TypeVar("T")
Put = Callable[[T], None]


class Stopped(Exception):
    """Somebody pressed Stop, asked for something else, or closed the page."""


class SessionRegistry:
    """Which run belongs to which open page. A page has one run at a time: beginning another stops the one before.

    Runs are numbered. Whoever waits for a turn holds the number of its own run, never the page's latest.
    """

    def __init__(self) -> None:
        self._runs: dict[str, tuple[int, Event]] = {}
        self._numbers = count(1)
        self._lock = Lock()

    def open(self, page: str) -> int:
        """The number of a new run of a page."""
        with self._lock:
            before = self._runs.get(page)
            number = next(self._numbers)
            self._runs[page] = number, Event()
        if before is not None:
            before[1].set()
        return number

    def stop_of(self, page: str, number: int) -> Event:
        """The event that says when a run is to stop. It is set already if the run was stopped, is not the page's last,
        or is of a page that is closed or unknown."""
        with self._lock:
            last, stop = self._runs.get(page, (None, None))
        if stop is not None and last == number:
            return stop
        over = Event()
        over.set()
        return over

    def stop(self, page: str) -> None:
        """Stop the run of a page, whether it has begun or waits for its turn."""
        with self._lock:
            run = self._runs.get(page)
        if run is not None:
            run[1].set()

    def close(self, page: str) -> None:
        """The page is gone."""
        with self._lock:
            run = self._runs.pop(page, None)
        if run is not None:
            run[1].set()

    def close_all(self) -> None:
        for page in list(self._runs):
            self.close(page)


class _End:
    """The last thing in a queue of results."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


class OneThread:
    """A thread that does one piece of work after the other, so that two users never meet inside the model."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="sparsesight-model")

    def stream(self, work: Callable[[Put[T]], None], stop: Event, tick: float = 0.25) -> Iterator[T | None]:
        """Have ``work`` done in the thread, and yield what it puts as it comes.

        Args:
            work: is given the function to put results with.
            stop: set by whoever wants no more of it, and by closing this iterator; work that was not yet begun is
                not begun then. Running work has to look itself (:func:`interruptible`).
            tick: after so many seconds without a result, None is yielded.

        Raises:
            Stopped: if it was stopped before it began.
            BaseException: whatever the work raised.
        """
        results: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def run() -> None:
            try:
                if stop.is_set():
                    raise Stopped
                work(results.put)
            except BaseException as error:
                results.put(_End(error))
            else:
                results.put(_End())

        self._pool.submit(run)
        try:
            while True:
                try:
                    result = results.get(timeout=tick)
                except queue.Empty:
                    if stop.is_set():
                        raise Stopped from None  # the thread may be busy with another's work
                    yield None
                    continue
                if not isinstance(result, _End):
                    yield result
                elif result.error is not None:
                    try:
                        raise result.error
                    finally:
                        del result  # its traceback refers to this frame, which would keep all pictures in it
                else:
                    return
        except GeneratorExit:
            stop.set()
            raise

    def close(self) -> None:
        """End the thread once it is done; work that waits is forgotten."""
        self._pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def interruptible(layers: Iterable[nn.Module], stop: Event) -> Iterator[None]:
    """Within it, a model that enters one of ``layers`` after ``stop`` was set raises :class:`Stopped`.

    A stopping criterion of ``generate()`` is asked once a token only; a long prefill would go on to its end.
    """

    def look(module: nn.Module, args: Any) -> None:
        if stop.is_set():
            raise Stopped

    hooks = [layer.register_forward_pre_hook(look) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
