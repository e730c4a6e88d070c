"""The processes of a sweep. They share only the run folder, so any launcher works that numbers its processes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from ..errors import SparseSightError


@dataclass(frozen=True)
class Ranks:
    """This process among those of a sweep, as ``accelerate launch`` and ``torchrun`` number them.

    Attributes:
        rank: of this process; 0 scores and reports.
        count: of processes.
        local: of this process among those of its machine: the number of its GPU.
    """

    rank: int = 0
    count: int = 1
    local: int = 0

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> Ranks:
        """What the launcher has set.

        Raises:
            SparseSightError: if it makes no sense.
        """
        words = [environment.get(name, default) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"))]
        words.append(environment.get("LOCAL_RANK", words[0]))
        try:
            rank, count, local = map(int, words)
        except ValueError:
            rank, count, local = -1, 0, -1
        if not 0 <= rank < count or local < 0:
            raise SparseSightError(
                f"environment variables RANK={words[0]!r}, WORLD_SIZE={words[1]!r}, LOCAL_RANK={words[2]!r} do "
                "not number the processes: unset them, or start with accelerate launch"
            )
        return cls(rank, count, local)


@contextmanager
def one_process() -> Iterator[None]:
    """Hide the numbering from code that would wait for the other processes."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)
