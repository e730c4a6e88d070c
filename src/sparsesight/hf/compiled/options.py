"""Options of the fast path of a prefill, and the report of its use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...errors import SparseSightError

RUNNERS = ("graph", "compile", "plain")


@dataclass(frozen=True)
class Fast:
    """Options of the fast path.

    Attributes:
        runner: ``"graph"`` replays CUDA graphs of the model's own kernels, ``"compile"`` fuses them with
            ``torch.compile`` (slow to build), ``"plain"`` only arranges the work in the same way; None: graphs on CUDA,
            the compiler elsewhere.
        bucket: program lengths are multiples of this, of twice as much from 16 buckets on, and so forth.
        programs: maximum number kept per thread; the least recently used one is evicted first.
    """

    runner: Literal["graph", "compile", "plain"] | None = None
    bucket: int = 64
    programs: int = 32

    def __post_init__(self) -> None:
        if self.runner not in (*RUNNERS, None):
            raise SparseSightError(
                f"fast: runner={self.runner!r} is unknown: use one of {', '.join(RUNNERS)}"
            )
        if self.bucket < 1 or self.programs < 1:
            raise SparseSightError(
                f"fast: bucket={self.bucket} and programs={self.programs} have to be 1 or more"
            )

    def length(self, rows: int) -> int:
        """Rows of the program for a given number of rows: at most an eighth more, above 16 buckets."""
        step = self.bucket
        while rows > 16 * step:
            step *= 2
        return -(-rows // step) * step


@dataclass(frozen=True)
class FastUse:
    """Use of the fast path in the last prefill.

    Attributes:
        segments: first and last layer of every segment.
        ran: whether each ran as a program.
        why_not: the reasons of those that ran without one, in the same order.
        programs: number of programs that this thread has built so far.
    """

    segments: tuple[tuple[int, int], ...] = ()
    ran: tuple[bool, ...] = ()
    why_not: tuple[str, ...] = ()
    programs: int = 0


def parse_fast(fast: Fast | bool | str) -> Fast | None:
    """The options for a value of ``fast=``; None: no fast path.

    Raises:
        SparseSightError: an unknown runner.
    """
    if isinstance(fast, Fast):
        return fast
    if isinstance(fast, str):
        return Fast(fast)  # type: ignore[arg-type]  # checked there
    if not isinstance(fast, bool):
        raise SparseSightError(f"fast={fast!r}: pass True, False, one of {', '.join(RUNNERS)}, or Fast(...)")
    return Fast() if fast else None
