"""What farthest-point selection maximises, for one sample on a CPU: the distance to the selected tokens."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from .bounds import DistanceBounds
from .greedy import Objective
from .points import Rows, TokenPoints
from .rows import as_array

if TYPE_CHECKING:
    from jaxtyping import Float, Int

# Distances that are computed at once, so that they stay in the processor's cache, but to at least so many tokens.
AT_ONCE, AT_LEAST = 2**16, 128


class FarthestPoint(Objective):
    """The squared distance to the nearest selected token.

    Each token's distance accounts for some number of the selected ones, and is brought up to date when
    :func:`.greedy.select` asks for it; until then the bounds say how large it can be.

    Args:
        points: of the tokens.
        bounds: of the distances, which are computed exactly only for candidates.
        keep: how many tokens are selected at most.
        first: the token that is selected first.
    """

    def __init__(self, points: TokenPoints, bounds: DistanceBounds, keep: int, first: int) -> None:
        n, c = len(points), points.run(0, 0).x.shape[1]
        self._points, self._bounds = points, bounds
        self._count = 0  # selected so far
        self._selected = Rows(torch.empty(keep, c, dtype=points.dtype), torch.empty(keep, dtype=points.dtype))
        self._seen = np.zeros(n, dtype=np.int64)  # so many of them each token's distance accounts for
        self.gain = np.full(n, math.inf)
        self._nearest = self.gain.copy()
        self.open(np.array([first]))
        self.pick(0)

    def worth(self, gain: np.ndarray, column: np.ndarray | slice) -> np.ndarray:
        return gain.copy()

    def current(self, best: np.ndarray) -> np.ndarray | None:
        column = best[: self.block]
        return column if (self._seen[column] == self._count).all() else None

    def refresh(self, best: np.ndarray, many: int) -> None:
        column = best[:many]
        seen = self._seen[column]
        for since in sorted({*seen.tolist()} - {self._count}):
            behind = column[seen == since]
            if self._nearly_all(since, len(behind)):
                return self._account_all(since)
            size = self._at_once(since)
            for start in range(0, len(behind), size):
                part = behind[start : start + size]
                self._account(part, self._points.some(torch.from_numpy(part)), since)
        self._seen[column] = self._count

    def _nearly_all(self, since: int, behind: int) -> bool:
        """Whether most tokens are behind, and the others current: then all in turn are brought up to date faster."""
        if 4 * behind < 3 * len(self._seen):
            return False
        return bool(np.isin(self._seen, (since, self._count)).all())

    def _account_all(self, since: int) -> None:
        n, step = len(self._seen), self._at_once(since)
        for start in range(0, n, step):
            part = slice(start, min(start + step, n))
            self._account(part, self._points.run(part.start, part.stop), since)
        self._seen.fill(self._count)

    def _at_once(self, since: int) -> int:
        """How many tokens to compare at once with those selected from number ``since`` on."""
        return max(AT_ONCE // (self._count - since), AT_LEAST)

    def _account(self, part: Int[np.ndarray, " m"] | slice, rows: Rows, since: int) -> None:
        """Let the distance of the tokens ``part`` account for those selected from number ``since`` on."""
        newly = Rows(*(x[since : self._count] for x in self._selected))
        nearest = as_array(self._points.squared(newly, rows).amin(0))
        self._nearest[part] = np.minimum(self._nearest[part], nearest)
        self.gain[part] = self._nearest[part]

    def open(self, column: np.ndarray) -> np.ndarray:
        self._column, self._picked = column, list[int]()
        self._block = self._points.some(torch.from_numpy(column))
        self._pairs = as_array(self._points.squared(self._block, self._block))
        self._inside: Float[np.ndarray, " m"] = self._nearest[column]
        return self._inside

    def pick(self, at: int) -> np.ndarray:
        self._picked.append(at)
        self._inside = np.minimum(self._inside, self._pairs[at])
        return self._inside

    def commit(self) -> None:
        if not self._picked:
            return
        end = self._count + len(self._picked)
        for selected, rows in zip(self._selected, self._block, strict=True):
            selected[self._count : end] = rows[self._picked]
        bound = self._bounds.upper(torch.from_numpy(self._column[self._picked])).amin(0)
        self.gain = np.minimum(self.gain, as_array(bound))
        self.gain[self._column] = self._nearest[self._column] = self._inside
        self._count = self._seen[self._column] = end
        self._picked = []
