"""One thread owns the model and streams what it does; it can be stopped within a layer."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import Any, TypeVar

from torch import nn

T = TypeVar("T")
Put = Callable[[T], None]
END: Any = object()


class Stopped(Exception):
    """The user pressed Stop, asked something else, or closed the page."""


class OneThread:
    """A thread that does one piece of work after the other, so that no two runs overlap in the model."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="sparsesight-model")

    def stream(self, work: Callable[[Put[T]], None], stop: Event, tick: float = 0.25) -> Iterator[T | None]:
        """Run ``work`` in the thread, and yield its results as they come.

        Args:
            work: called with the function that it passes results to.
            stop: ends it; set by whoever wants no more of it, and when this iterator is closed. Work that has not
                begun is then dropped; running work must look itself (:func:`interruptible`).
            tick: after this many seconds without a result, None is yielded.

        Raises:
            Stopped: if it was stopped before it began.
            BaseException: whatever the work raised.
        """
        results: queue.SimpleQueue[T] = queue.SimpleQueue()

        def run() -> None:
            if stop.is_set():
                raise Stopped
            work(results.put)

        running = self._pool.submit(run)
        running.add_done_callback(lambda _: results.put(END))
        try:
            while True:
                try:
                    result = results.get(timeout=tick)
                except queue.Empty:
                    if stop.is_set():
                        raise Stopped from None  # the thread may be busy with another run
                    yield None
                    continue
                if result is END:
                    break
                yield result
            running.result()
        except GeneratorExit:
            stop.set()
            raise
        finally:
            del running  # its error's traceback refers to this frame, which would keep pictures alive

    def close(self) -> None:
        """End the thread once it is done; waiting work is dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def interruptible(layers: Iterable[nn.Module], stop: Event) -> Iterator[None]:
    """Within it, a model that enters one of ``layers`` after ``stop`` was set raises :class:`Stopped`.

    ``generate()`` checks its stopping criteria only once per token, so a long prefill would run to its end.
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
