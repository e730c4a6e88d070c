"""Greedy selection for one sample, exact but in blocks.

A greedy step compares all tokens, but a gain never grows while others are selected. So the steps run within a block of
the best candidates for as long as its best one beats what every other token had at most; then all tokens are brought up
to date with one matrix product. The selection is that of the plain loop, token by token, ties included.

Control flow depends on the data: for tensors on a CPU, where reading a number waits for nothing.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .rows import host_values

if TYPE_CHECKING:
    from jaxtyping import Float, Int

BLOCK = 128  # candidates compared at once
# A gain below this fraction of a token's own is rounding, not new information.
EXHAUSTED = 1e-5


class Objective(ABC):
    """What is maximised, and the state of a selection."""

    gain: Float[Tensor, " n"]  # of every token, up to date after `commit`; none of it ever grows

    @abstractmethod
    def worth(self, gain: Tensor, column: Tensor) -> Float[Tensor, " m"]:
        """What is compared: ``gain`` of the tokens ``column``, -inf if it is no longer worth selecting."""

    @abstractmethod
    def open(self, column: Int[Tensor, " m"]) -> None:
        """Begin a block of candidates."""

    @abstractmethod
    def pick(self, at: int) -> Float[Tensor, " m"]:
        """Select number ``at`` of the block; the gains within the block."""

    def pick_all(self) -> bool:
        """Select the whole block at once; False, and nothing is selected, if that is not the same one by one."""
        return False

    @abstractmethod
    def commit(self) -> None:
        """Bring the gains of all tokens up to date."""


class FarthestPoint(Objective):
    """The squared distance to the nearest selected token; the first one is given.

    Args:
        squared: squared distances between two sets of tokens.
        tokens: their number.
        first: the first selected token.
    """

    def __init__(self, squared: Callable[[Tensor, Tensor], Tensor], tokens: int, first: Tensor) -> None:
        self._squared, self._all = squared, torch.arange(tokens)
        self.gain = squared(first, self._all)[0]

    def worth(self, gain: Tensor, column: Tensor) -> Tensor:
        return gain

    def open(self, column: Tensor) -> None:
        self._column, self._picked = column, list[int]()
        self._pairs = self._squared(column, column)
        self._inside = self.gain[column]

    def pick(self, at: int) -> Tensor:
        self._picked.append(at)
        self._inside = torch.minimum(self._inside, self._pairs[at])
        return self._inside

    def commit(self) -> None:
        picked = self._column[self._picked]
        self.gain = torch.minimum(self.gain, self._squared(picked, self._all).amin(0))


class Determinant(Objective):
    """The factor by which a token enlarges the determinant of the selected part of a kernel: pivoted Cholesky.

    Args:
        kernel: its part for two sets of tokens.
        own: its diagonal.
        keep: how many tokens are selected at most.
    """

    def __init__(
        self, kernel: Callable[[Tensor, Tensor], Tensor], own: Float[Tensor, " n"], keep: int
    ) -> None:
        self._kernel, self._own, self._all = kernel, own, torch.arange(len(own))
        self.gain = own.clone()
        self._factor = own.new_empty(keep, len(own))
        self._rows = 0

    def worth(self, gain: Tensor, column: Tensor) -> Tensor:
        # Rounded, as the last digits of a matrix product depend on its shape: equal tokens tie.
        return gain.float().masked_fill_(gain <= EXHAUSTED * self._own[column], -math.inf)

    def open(self, column: Tensor) -> None:
        self._column, self._picked = column, list[int]()
        known = self._factor[: self._rows, column]
        self._rest = self._kernel(column, column) - known.T @ known
        self._new = known.new_empty(min(len(column), len(self._factor) - self._rows), len(column))
        self._inside = self.gain[column]

    def pick(self, at: int) -> Tensor:
        new = self._new[: len(self._picked)]
        row = (self._rest[at] - new[:, at] @ new) * self._inside[at].rsqrt()
        self._new[len(new)] = row
        self._picked.append(at)
        self._inside = self._inside - row.square()
        return self._inside

    def pick_all(self) -> bool:
        lower, failed = torch.linalg.cholesky_ex(self._rest)
        left, own = lower.diagonal().square(), self._own[self._column]
        if any(host_values(failed[None])) or not all(host_values(left > EXHAUSTED * own)):
            return False  # some add nothing, and are left out
        self._new[: len(lower)], self._picked = lower.T, list(range(len(lower)))
        return True

    def commit(self) -> None:
        count = len(self._picked)
        picked, upper = self._column[self._picked], self._new[:count, self._picked]
        known = self._factor[: self._rows]
        rest = self._kernel(picked, self._all) - known[:, picked].T @ known
        new = torch.linalg.solve_triangular(upper.T.tril(), rest, upper=False)
        self._factor[self._rows : self._rows + count] = new
        self._rows += count
        self.gain = self.gain - new.square().sum(0)


class Coverage(Objective):
    """The coverage that a token adds: how much it raises the maximum over the selected tokens, summed over targets.

    Args:
        cover: how much a target (row) is covered by a token (column), not negative.
        weight: multiplies what a token adds.
    """

    def __init__(self, cover: Float[Tensor, "i n"], weight: Float[Tensor, " n"]) -> None:
        self._cover, self._weight = cover, weight.double()
        self._covered = cover.new_zeros(len(cover), 1)
        self.commit()

    def worth(self, gain: Tensor, column: Tensor) -> Tensor:
        return gain.float()

    def open(self, column: Tensor) -> None:
        self._column, self._block = column, self._cover[:, column]

    def pick(self, at: int) -> Tensor:
        self._covered = torch.maximum(self._covered, self._block[:, at : at + 1])
        return self._weight[self._column] * added_coverage(self._block, self._covered)

    def commit(self) -> None:
        self.gain = self._weight * added_coverage(self._cover, self._covered)


def added_coverage(cover: Float[Tensor, "*b i n"], covered: Float[Tensor, "*b i 1"]) -> Float[Tensor, "*b n"]:
    """How much each token (column) raises what is covered, summed over the targets in fp64."""
    return (cover - covered).clamp_(min=0).sum(-2, dtype=torch.float64)


def select(objective: Objective, keep: int, given: Int[Tensor, " g"]) -> list[int]:
    """The selected tokens in order: first the ``given`` ones, then, one by one, the token that is worth most.

    Of equals the earlier one is selected. If nothing else is worth selecting, there are fewer than ``keep``.

    Args:
        objective: what is maximised.
        keep: how many to select, at least as many as are given.
        given: tokens that are selected in any case.
    """
    order = [int(i) for i in host_values(given)]
    for start in range(0, len(order), BLOCK):
        column = given[start : start + BLOCK]
        objective.open(column)
        inside, some = objective.gain[column], objective.pick_all()
        for at in () if some else range(len(column)):
            if host_values(objective.worth(inside[at : at + 1], column[at : at + 1]))[0] > -math.inf:
                inside, some = objective.pick(at), True
        if some:
            objective.commit()
    gone = torch.zeros(len(objective.gain), dtype=torch.bool)
    gone[given] = True
    every = torch.arange(len(gone))
    while len(order) < keep:
        worth = objective.worth(objective.gain, every).masked_fill(gone, -math.inf)
        best = worth.argsort(descending=True, stable=True)[: BLOCK + 1]
        column = best[:BLOCK].sort().values
        number = host_values(column)
        limit, after = -math.inf, math.inf
        if len(best) > BLOCK:
            limit, after = host_values(worth[best[BLOCK:]])[0], host_values(best[BLOCK:])[0]
        objective.open(column)
        candidate, picked = worth[column].clone(), list[int]()
        closed = gone[column]
        while len(order) + len(picked) < keep:
            most, where = candidate.max(0)
            value, at = host_values(most)[0], int(host_values(where)[0])
            if value == -math.inf or value < limit or (value == limit and number[at] > after):
                break
            picked.append(at)
            closed[at] = True
            candidate = objective.worth(objective.pick(at), column).masked_fill(closed, -math.inf)
        if not picked:
            break
        objective.commit()
        order += [int(number[at]) for at in picked]
        gone[column[picked]] = True
    return order


def loneliest(
    squared: Callable[[Tensor, Tensor], Tensor], tokens: int, near: Float[Tensor, " n"]
) -> Int[Tensor, " 1"]:
    """The token whose nearest neighbour is farthest, the earlier one of equals.

    Tokens are compared with all others a block at a time, beginning with those that seem loneliest, until the others
    have a neighbour that is nearer than the best one's.

    Args:
        squared: squared distances between two sets of tokens.
        tokens: their number.
        near: the squared distance to some other token.
    """
    every = torch.arange(tokens)
    nearest, known = near.clone(), torch.zeros(tokens, dtype=torch.bool)
    best = -math.inf
    while True:
        open_ = nearest.masked_fill(known, -math.inf)
        column = open_.argsort(descending=True, stable=True)[:BLOCK]
        values = host_values(open_[column])
        count = sum(value >= best and value > -math.inf for value in values)
        if not count:
            return nearest.masked_fill(~known, -math.inf).argmax(0, keepdim=True)
        column = column[:count]
        pairs = squared(column, every)
        pairs[torch.arange(count), column] = math.inf
        nearest = torch.minimum(nearest, pairs.amin(0))
        nearest[column] = pairs.amin(1)
        known[column] = True
        best = max(best, max(host_values(nearest[column])))
