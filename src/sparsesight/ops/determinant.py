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

if TYPE_CHECKING:
    from jaxtyping import Float

# A gain below this fraction of a token's own is rounding, not new information.
EXHAUSTED = 1e-5


class Determinant(Objective):
    """The factor by which a token enlarges the determinant of the selected part of a kernel: pivoted Cholesky.

    The rows of the factor that a block adds are computed by matrix products, when another block is asked for.

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
        self._points, self._every = points, points.run(0, len(points))
        self._kernel, self._weight = kernel, weight
        self._count, self._picked = 0, list[int]()  # selected before this block and in it
        self._factor = own.new_empty(keep, len(own))  # of the selected tokens, by all
        self.gain = own.numpy().copy()
        self._floor = EXHAUSTED * self.gain
        # Multiplies what each token is worth; may be changed between selections.
        self.favor: Float[np.ndarray, " n"] | None = None

    def worth(self, gain: np.ndarray, column: np.ndarray | slice) -> np.ndarray:
        worth = gain if self.favor is None else gain * self.favor[column]
        rounded = worth.astype(np.float32)
        rounded[gain <= self._floor[column]] = -math.inf
        return rounded

    def open(self, column: np.ndarray) -> np.ndarray:
        self._column, self._picked = torch.from_numpy(column), list[int]()
        rows = Rows(*(x.index_select(0, self._column) for x in self._every))
        weight = self._weight[self._column]
        self._known = self._factor[: self._count].index_select(1, self._column)
        rest = self._kernel(self._points.squared(rows, rows), weight, weight)
        self._rest = rest.addmm_(self._known.T, self._known, alpha=-1).numpy()
        self._new = np.empty((min(len(column), len(self._factor) - self._count), len(column)))
        self._inside = self.gain[column]
        return self._inside

    def pick(self, at: int) -> np.ndarray:
        done = len(self._picked)
        row = self._new[done]
        np.matmul(self._new[:done, at], self._new[:done], out=row)
        np.subtract(self._rest[at], row, out=row)
        row *= 1 / math.sqrt(self._inside[at])
        self._picked.append(at)
        self._inside = self._inside - row * row
        return self._inside

    def commit(self) -> None:
        if not self._picked:
            return
        start, end = self._count, self._count + len(self._picked)
        picked = self._column[self._picked]
        rows = Rows(*(x.index_select(0, picked) for x in self._every))
        rest = self._kernel(self._points.squared(rows, self._every), self._weight[picked], self._weight)
        if start:
            rest.addmm_(self._known[:, self._picked].T, self._factor[:start], alpha=-1)
        lower = torch.from_numpy(self._new[: end - start, self._picked].T).tril()
        new = self._factor[start:end] = torch.linalg.solve_triangular(lower, rest, upper=False)
        self.gain -= new.square_().sum(0).numpy()
        self._count, self._picked = end, []
