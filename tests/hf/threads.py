"""Running a test's calls in threads that interrupt each other everywhere."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any


def wrong_in_threads(
    jobs: Iterable[int], works: Callable[[int], bool], times: int, interval: float
) -> list[Any]:
    """The jobs whose ``works(job)`` was false, and what it raised: each runs ``times`` over in a thread of its own."""
    wrong: list[Any] = []

    def work(job: int) -> None:
        try:
            wrong.extend(job for _ in range(times) if not works(job))
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(job,)) for job in jobs]
    before = sys.getswitchinterval()
    sys.setswitchinterval(interval)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    return wrong
