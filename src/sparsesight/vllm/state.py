"""How many tokens of each request the layers after each stage no longer hold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


class Removed:
    """Removed tokens per stage, under the first physical block of a request (in the V2 runner: its slot).

    A request keeps either for as long as it holds keys, and a request that begins, also one that was
    preempted, has computed nothing: what an earlier holder left is dropped then. So nothing has to be
    told of requests that finish, are aborted or preempted.
    """

    def __init__(self, stages: int) -> None:
        self._table: Counts = np.zeros((stages, 0), np.int64)
        self.used = False  # whether anything was removed of a request that may still hold keys

    def of(self, block: Counts, computed: Counts) -> Counts:
        """Tokens removed in earlier steps, [stages, r].

        Args:
            block: first physical block, or slot, of each request, [r]; no two requests share one.
            computed: tokens computed before this step, [r].
        """
        if len(block) and (needed := int(block.max()) + 1) > self._table.shape[1]:
            more = max(needed, 2 * self._table.shape[1]) - self._table.shape[1]
            self._table = np.pad(self._table, ((0, 0), (0, more)))
        begins = block[computed == 0]
        self._table[:, begins] = 0
        return self._table[:, block]

    def add(self, block: Counts, more: Counts) -> None:
        """Note what this step removes, [stages, r]."""
        self._table[:, block] += more
        self.used = True

    def clear(self) -> None:
        """Forget all: no request that lost tokens holds keys any more."""
        self._table[:] = 0
        self.used = False

    @property
    def nbytes(self) -> int:
        """Memory that is held; it grows with the number of blocks, not of requests."""
        return self._table.nbytes
