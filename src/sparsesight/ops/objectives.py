"""What greedy selections by difference maximise: the distance to the selected tokens, the determinant of a kernel.

The gain of a token follows from the selected ones. Each gain accounts for some number of these, and is brought up to
date when :func:`.greedy.select` asks for it.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .bounds import DistanceBounds
from .greedy import BLOCK, Objective
from .points import Rows, TokenPoints
from .rows import host_values

if TYPE_CHECKING:
    from jaxtyping import Float, Int

# A gain below this fraction of a token's own is rounding, not new information.
EXHAUSTED = 1e-5
AT_ONCE = 2**16  # distances that are computed at once: they stay in the processor's cache


class LazyObjective(Objective):
    """Gains by the distances of points to the selected ones.

    Args:
        points: of the tokens.
        keep: how many tokens are selected at most.
    """

    def __init__(self, points: TokenPoints, keep: int) -> None:
        n, c = len(points), points.run(0, 0).x.shape[1]
        self._points = points
        self._count = 0  # selected so far
        self._column = torch.empty(0, dtype=torch.long)  # the tokens of the block
        self._selected = Rows(torch.empty(keep, c, dtype=points.dtype), torch.empty(keep, dtype=points.dtype))
        self._seen = torch.zeros(n, dtype=torch.long)  # so many of them each token's gain accounts for

    def is_current(self, column: Tensor) -> bool:
        return all(seen == self._count for seen in host_values(self._seen[column]))

    def refresh(self, column: Tensor) -> None:
        seen = [int(i) for i in host_values(self._seen[column])]
        for since in sorted(set(seen) - {self._count}):
            behind = [i for i, x in enumerate(seen) if x == since]
            if self._nearly_all(since, len(behind)):
                return self._account_all(since)
            group = column if len(behind) == len(column) else column[behind]
            for part in group.split(self._at_once(since)):
                self._account(part, self._points.some(part), since)
        self._seen[column] = self._count

    def _nearly_all(self, since: int, behind: int) -> bool:
        """Whether most tokens are behind, and the others current: then all in turn are brought up to date faster."""
        if 4 * behind < 3 * len(self._seen):
            return False
        return not {int(seen) for seen in host_values(self._seen)} - {since, self._count}

    def _account_all(self, since: int) -> None:
        n, step = len(self._seen), self._at_once(since)
        for start in range(0, n, step):
            part = slice(start, min(start + step, n))
            self._account(part, self._points.run(part.start, part.stop), since)
        self._seen.fill_(self._count)

    def open(self, column: Tensor) -> Tensor:
        self._column, self._picked = column, list[int]()
        self._block = self._points.some(column)
        return self._start()

    def commit(self) -> None:
        end = self._count + len(self._picked)
        for selected, rows in zip(self._selected, self._block, strict=True):
            selected[self._count : end] = rows[self._picked]
        self._finish(end)
        self._count = end
        self._seen[self._column] = end

    def _at_once(self, since: int) -> int:
        """How many tokens to compare at once with those selected from number ``since`` on."""
        return max(AT_ONCE // (self._count - since), BLOCK)

    def _newly(self, since: int) -> Rows:
        return Rows(*(x[since : self._count] for x in self._selected))

    @abstractmethod
    def _account(self, part: Int[Tensor, " m"] | slice, rows: Rows, since: int) -> None:
        """Let the gain of the tokens ``part`` account for those selected from number ``since`` on.

        There may be tokens among them whose gain already does.
        """

    @abstractmethod
    def _start(self) -> Float[Tensor, " m"]:
        """Compare the tokens of the block with each other; their gains."""

    @abstractmethod
    def _finish(self, end: int) -> None:
        """Note the gains of the block, and what was picked, as numbers up to ``end`` of the selected."""


class FarthestPoint(LazyObjective):
    """The squared distance to the nearest selected token.

    Args:
        points, keep: see :class:`LazyObjective`.
        bounds: of the distances, which are computed exactly only for candidates.
        first: the token that is selected first.
    """

    def __init__(
        self, points: TokenPoints, bounds: DistanceBounds, keep: int, first: Int[Tensor, " 1"]
    ) -> None:
        super().__init__(points, keep)
        self._bounds = bounds
        self.gain = torch.full((len(points),), math.inf, dtype=torch.float64)
        self._nearest = self.gain.clone()
        self.open(first)
        self.pick(0)
        self.commit()

    def worth(self, gain: Tensor, column: Tensor) -> Tensor:
        return gain.clone()

    def _account(self, part: Tensor | slice, rows: Rows, since: int) -> None:
        nearest = self._points.squared(self._newly(since), rows).amin(0)
        self._nearest[part] = torch.minimum(self._nearest[part], nearest)
        self.gain[part] = self._nearest[part]

    def _start(self) -> Tensor:
        self._pairs = self._points.squared(self._block, self._block)
        self._inside = self._nearest[self._column]
        return self._inside

    def pick(self, at: int) -> Tensor:
        self._picked.append(at)
        self._inside = torch.minimum(self._inside, self._pairs[at])
        return self._inside

    def _finish(self, end: int) -> None:
        bound = self._bounds.upper(self._column[self._picked]).amin(0)
        self.gain = torch.minimum(self.gain, bound.double())
        self.gain[self._column] = self._nearest[self._column] = self._inside


class Determinant(LazyObjective):
    """The factor by which a token enlarges the determinant of the selected part of a kernel: pivoted Cholesky.

    Args:
        points, keep: see :class:`LazyObjective`.
        kernel: from squared distances, which it may overwrite, and weights of rows and columns.
        weight: of the tokens.
        own: the kernel's diagonal.
    """

    def __init__(
        self,
        points: TokenPoints,
        kernel: Callable[[Tensor, Tensor, Tensor], Tensor],
        weight: Float[Tensor, " n"],
        own: Float[Tensor, " n"],
        keep: int,
    ) -> None:
        super().__init__(points, keep)
        self._kernel, self._weight = kernel, weight
        # Multiplies what each token is worth; may be changed between selections.
        self.favor: Tensor | None = None
        self.gain = own.clone()
        self._floor = EXHAUSTED * own
        self._factor = own.new_empty(len(own), keep)  # of a token, by the selected ones
        self._lower = own.new_zeros(keep, keep)  # the selected tokens' part of it
        self._weights = weight.new_empty(keep)

    def worth(self, gain: Tensor, column: Tensor) -> Tensor:
        floor = self._low if column is self._column else self._floor[column]
        worth = gain if self.favor is None else gain * self.favor[column]
        # Rounded, as the last digits of a matrix product depend on its shape: equal tokens tie.
        return worth.float().masked_fill_(gain <= floor, -math.inf)

    def _account(self, part: Tensor | slice, rows: Rows, since: int) -> None:
        new, weight = slice(since, self._count), self._weights[since : self._count]
        rest = self._kernel(self._points.squared(self._newly(since), rows), weight, self._weight[part])
        if since:
            rest.addmm_(self._lower[new, :since], self._factor[part, :since].T, alpha=-1)
        found = torch.linalg.solve_triangular(self._lower[new, new], rest, upper=False)
        self._factor[part, new] = found.T
        less = found.square_().sum(0).masked_fill_(self._seen[part] > since, 0)
        self.gain[part] -= less

    def _start(self) -> Tensor:
        column, count = self._column, self._count
        weight, known = self._weight[column], self._factor[column, :count]
        self._low = self._floor[column]
        self._rest = self._kernel(self._points.squared(self._block, self._block), weight, weight)
        self._rest.addmm_(known, known.T, alpha=-1)
        self._new = known.new_empty(min(len(column), self._factor.shape[1] - count), len(column))
        self._inside = self.gain[column]
        return self._inside

    def pick(self, at: int) -> Tensor:
        new = self._new[: len(self._picked)]
        row = (self._rest[at] - new[:, at] @ new) * self._inside[at].rsqrt()
        self._new[len(new)] = row
        self._picked.append(at)
        self._inside = self._inside - row.square()
        return self._inside

    def _finish(self, end: int) -> None:
        column, start = self._column, self._count
        picked = column[self._picked]
        new = self._new[: end - start]
        self._weights[start:end] = self._weight[picked]
        self._lower[start:end, :start] = self._factor[picked, :start]
        self._lower[start:end, start:end] = new[:, self._picked].T.tril()
        self._factor[column, start:end] = new.T
        self.gain[column] -= new.square().sum(0)
