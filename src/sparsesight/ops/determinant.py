"""What greedy selection by the determinant of a kernel maximises, for one sample on a CPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .greedy import Objective
from .points import Rows, TokenPoints
from .rows import as_array

if TYPE_CHECKING:
    from jaxtyping import Float, Int

# A gain below this fraction of a token's own is rounding, not new information.
EXHAUSTED = 1e-5
WHOLE = 640  # so few tokens are one block; half as many in fp64, whose products take twice as long
STRIP = 128  # rows of a symmetric matrix that are computed at once, up to its diagonal
ACTIVE = 512  # tokens to begin with
ENOUGH = 16  # active tokens that have to be better than the others


class Determinant(Objective):
    """The factor by which a token enlarges the determinant of the selected part of a kernel: pivoted Cholesky.

    Within a block, a row of the Cholesky factor is computed for each selected token. The other tokens' part of these
    rows follows at its end, by matrix products. A block of all tokens has no others, and goes on where it ended.

    Only *active* tokens are compared, at first those that are worth most by themselves. The others join them when they
    may be better: what a token is worth by itself bounds its gain.

    Args:
        points: of the tokens.
        kernel: from squared distances, which it may overwrite, and weights of rows and columns.
        weight: of the tokens.
        own: the kernel's diagonal.
        keep: how many tokens are selected at most.
    """

    def __init__(
        self,
        points: TokenPoints,
        kernel: Callable[[Tensor, Tensor, Tensor], Tensor],
        weight: Float[Tensor, " n"],
        own: Float[Tensor, " n"],
        keep: int,
    ) -> None:
        n = len(own)
        self._points, self._kernel = points, kernel
        self._all_weights, self._weight = weight, weight[:0]
        self._whole: Float[Tensor, "n n"] | None = None  # the kernel, if blocks are of all tokens
        if n <= (WHOLE if points.dtype == torch.float32 else WHOLE // 2):
            self.block = n
        self._active = np.arange(0)
        self._rows = Rows(*(x[:0] for x in points.run(0, 0)))  # of the active tokens, as their weights
        self._place = np.full(n, -1)  # where among the active tokens each one is
        self._count, self._picked = 0, list[int]()  # selected before this block and in it
        self._selected = torch.empty(keep, dtype=torch.long)  # among the active tokens
        # A row for each selected token, a column for each active one.
        self._rows_found: Float[np.ndarray, "keep n"] = np.empty((keep, n))
        self._factor = torch.from_numpy(self._rows_found)
        self.gain = as_array(own).copy()
        self._floor = EXHAUSTED * self.gain
        # Multiplies what each token is worth; may be changed between selections.
        self.favor: Float[np.ndarray, " n"] | None = None

    def worth(self, gain: np.ndarray, column: np.ndarray | slice) -> np.ndarray:
        worth = gain if self.favor is None else gain * self.favor[column]
        rounded = worth.astype(np.float32)
        rounded[gain <= self._floor[column]] = -math.inf
        return rounded

    def current(self, best: np.ndarray) -> np.ndarray | None:
        active = self._place[best] >= 0
        return best[active] if active[:ENOUGH].all() else None

    def refresh(self, best: np.ndarray, many: int) -> None:
        """Let more tokens be active: as many again, and those that seem to be worth the same as the last of these."""
        idle = best[self._place[best] < 0]
        if not len(idle):
            return
        worth = self.worth(self.gain[idle], idle)
        least = worth[: max(ACTIVE, len(self._active), many)].min()
        new = np.sort(idle[worth >= least])
        index = torch.from_numpy(new)
        weight = self._all_weights[index]
        start, end = len(self._active), len(self._active) + len(new)
        everything = len(new) == len(self.gain)
        rows = self._points.run(0, len(new)) if everything else self._points.some(index)
        if self._count:
            selected = self._selected[: self._count]
            lower = self._factor[: self._count].index_select(1, selected).T
            found = torch.linalg.solve_triangular(lower, self._between(selected, rows, weight), upper=False)
            self._factor[: self._count, start:end] = found
            self.gain[new] -= as_array(found.square_().sum(0))
        self._rows = Rows(
            *(torch.cat(pair) if start else pair[1] for pair in zip(self._rows, rows, strict=True))
        )
        self._weight = torch.cat((self._weight, weight))
        self._active = np.concatenate((self._active, new))
        self._place[new] = np.arange(start, end)

    def open(self, column: np.ndarray) -> np.ndarray:
        self._at, self._picked = torch.from_numpy(self._place[column]), list[int]()
        self._inside: Float[np.ndarray, " m"] = self.gain[column]
        if self.block >= len(self.gain):
            if self._whole is None:
                self._whole = self._among(self._rows, self._weight)
            self._rest, self._found, self._done = as_array(self._whole), self._rows_found, self._count
            return self._inside
        self._known = self._factor[: self._count].index_select(1, self._at)
        rest = self._among(self._some(self._at), self._weight[self._at])
        self._rest = as_array(rest.addmm_(self._known.T, self._known, alpha=-1))
        self._found = np.empty((min(len(column), len(self._factor) - self._count), len(column)))
        self._done = 0
        return self._inside

    def pick(self, at: int) -> np.ndarray:
        before, row = self._found[: self._done], self._found[self._done]
        np.matmul(before[:, at], before, out=row)
        np.subtract(self._rest[at], row, out=row)
        row *= 1 / math.sqrt(self._inside[at])
        self._picked.append(at)
        self._done += 1
        self._inside = self._inside - row * row
        return self._inside

    def commit(self) -> None:
        if not self._picked:
            return
        start, end, width = self._count, self._count + len(self._picked), len(self._active)
        selected = self._selected[start:end] = self._at[self._picked]
        if self._whole is not None:
            self.gain = self._inside
        else:
            rest = self._between(selected, self._rows, self._weight)
            rest.addmm_(self._known[:, self._picked].T, self._factor[:start, :width], alpha=-1)
            lower = torch.from_numpy(self._found[: self._done, self._picked].T).tril()
            found = self._factor[start:end, :width] = torch.linalg.solve_triangular(lower, rest, upper=False)
            self.gain[self._active] -= as_array(found.square_().sum(0))
        self._count, self._picked = end, []

    def _some(self, place: Int[Tensor, " m"]) -> Rows:
        return Rows(*(x.index_select(0, place) for x in self._rows))

    def _between(
        self, place: Int[Tensor, " p"], rows: Rows, weight: Float[Tensor, " m"]
    ) -> Float[Tensor, "p m"]:
        """The kernel of some active tokens and others."""
        return self._kernel(self._points.squared(self._some(place), rows), self._weight[place], weight)

    def _among(self, rows: Rows, weight: Float[Tensor, " m"]) -> Float[Tensor, "m m"]:
        """The kernel of some tokens."""
        n = len(weight)
        kernel = self._factor.new_empty(n, n)
        for start in range(0, n, STRIP):
            end = min(start + STRIP, n)
            strip, left = (Rows(*(x[part] for x in rows)) for part in (slice(start, end), slice(end)))
            found = self._kernel(self._points.squared(strip, left), weight[start:end], weight[:end])
            kernel[start:end, :end] = found
            kernel[:start, start:end] = found[:, :start].T
        return kernel
