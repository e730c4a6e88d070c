"""Greedy selection for one sample, exact but lazy and in blocks.

A greedy step compares all tokens, but a gain never grows while others are selected: a gain that was computed earlier is
an upper bound. So steps run within a block of the best candidates for as long as its best one beats what every other
token has at most, and gains are computed anew only for tokens that seem good enough. The selection is that of the plain
loop, token by token, ties included.

Control flow depends on the data: for tensors on a CPU, where reading a number waits for nothing.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .rows import host_values

if TYPE_CHECKING:
    from jaxtyping import Float, Int

BLOCK = 128  # candidates compared at once


class Objective(ABC):
    """What is maximised, and the state of a selection."""

    gain: Float[Tensor, " n"]  # at most so much is gained by a token; never less than what is

    @abstractmethod
    def worth(self, gain: Tensor, column: Tensor) -> Float[Tensor, " m"]:
        """What is compared: ``gain`` of the tokens ``column``, -inf if it is no longer worth selecting."""

    def is_current(self, column: Int[Tensor, " m"]) -> bool:
        """Whether ``gain`` of these tokens is what they add now. Default: :meth:`commit` sees to it."""
        return True

    def refresh(self, column: Int[Tensor, " m"]) -> None:
        """Make ``gain`` of these tokens current."""
        return

    @abstractmethod
    def open(self, column: Int[Tensor, " m"]) -> Float[Tensor, " m"]:
        """Begin a block of candidates, which are current; their gains."""

    @abstractmethod
    def pick(self, at: int) -> Float[Tensor, " m"]:
        """Select number ``at`` of the block; the gains within the block."""

    @abstractmethod
    def commit(self) -> None:
        """End a block."""


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

    def open(self, column: Tensor) -> Tensor:
        self._column, self._block = column, self._cover[:, column]
        return self.gain[column]

    def pick(self, at: int) -> Tensor:
        self._covered = torch.maximum(self._covered, self._block[:, at : at + 1])
        return self._weight[self._column] * added_coverage(self._block, self._covered)

    def commit(self) -> None:
        self.gain = self._weight * added_coverage(self._cover, self._covered)


def added_coverage(cover: Float[Tensor, "*b i n"], covered: Float[Tensor, "*b i 1"]) -> Float[Tensor, "*b n"]:
    """How much each token (column) raises what is covered, summed over the targets in fp64."""
    return (cover - covered).clamp_(min=0).sum(-2, dtype=torch.float64)


def select(objective: Objective, keep: int, selected: Sequence[int] = ()) -> list[int]:
    """The selected tokens in order: one by one, the token that is worth most.

    Of equals the earlier one is selected. If nothing else is worth selecting, there are fewer than ``keep``.

    Args:
        objective: what is maximised.
        keep: how many to select.
        selected: what was selected before, which the objective accounts for; these are counted and come first.
    """
    order = list(selected)
    gone = torch.zeros(len(objective.gain), dtype=torch.bool)
    gone[order] = True
    many = 2 * BLOCK
    while len(order) < keep:
        column, number, limit, after, many = _candidates(objective, gone, many)
        candidate, best = objective.worth(objective.open(column), column), _Largest()
        closed, picked = gone[column], list[int]()
        while len(order) + len(picked) < keep:
            value, at = best.of(candidate.masked_fill_(closed, -math.inf))
            if value == -math.inf or value < limit or (value == limit and number[at] > after):
                break
            picked.append(at)
            closed[at] = True
            candidate = objective.worth(objective.pick(at), column)
        if not picked:
            break
        objective.commit()
        order += [int(number[at]) for at in picked]
        gone[column[picked]] = True
    return order


def _candidates(
    objective: Objective, gone: Tensor, many: int
) -> tuple[Tensor, array[float], float, float, int]:
    """The best tokens in their order, on the device and on the host; what others are worth at most, the first of these.

    All of them are current. Those that only seem good are refreshed, ``many`` of them and more from round to round;
    the last number is how many to begin with next time.
    """
    every = torch.arange(len(gone))
    while True:
        worth = objective.worth(objective.gain, every).masked_fill_(gone, -math.inf)
        best = worth.argsort(descending=True, stable=True)
        column = best[:BLOCK]
        if objective.is_current(column):
            break
        objective.refresh(best[:many] if many < len(best) else every)
        many *= 4
    limit, after = -math.inf, math.inf
    if len(best) > BLOCK:
        limit, after = host_values(worth[best[BLOCK : BLOCK + 1]])[0], host_values(best[BLOCK : BLOCK + 1])[0]
    column = column.sort().values
    # Where much had to be refreshed, most of it goes out of date each time: all at once is faster then.
    again = len(gone) if many > 2 * len(gone) else max(many // 4, 2 * BLOCK)
    return column, host_values(column), limit, after, again


class _Largest:
    """The largest number of a tensor on a CPU and where it first is, read without an allocation."""

    def __init__(self) -> None:
        self._value, self._at = array("d", [0.0]), array("q", [0])
        self._out = {d: torch.empty(1, dtype=d) for d in (torch.float32, torch.float64)}
        self._where = torch.frombuffer(self._at, dtype=torch.int64)
        self._into = torch.frombuffer(self._value, dtype=torch.float64)

    def of(self, x: Float[Tensor, " m"]) -> tuple[float, int]:
        value = self._out[x.dtype]
        torch.max(x, 0, keepdim=True, out=(value, self._where))
        self._into.copy_(value)
        return self._value[0], self._at[0]
