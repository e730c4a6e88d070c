"""Greedy selection for one sample, exact but lazy and in blocks.

A greedy step compares all tokens, but a gain never grows while others are selected: a gain that was computed earlier is
an upper bound. So steps run within a block of the best candidates for as long as its best one beats what every other
token has at most, and gains are computed anew only for tokens that seem good enough. The selection is that of the plain
loop, token by token, ties included.

Control flow depends on the data: for tensors on a CPU, where reading a number waits for nothing. What is done in every
step is done by numpy, whose operations on a few hundred numbers take a tenth of the time of torch's.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .rows import as_array

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


class Objective(ABC):
    """What is maximised, and the state of a selection."""

    block: int = 128  # candidates compared at once
    gain: Float[np.ndarray, " n"]  # at most so much is gained by a token; never less than what is

    @abstractmethod
    def worth(self, gain: np.ndarray, column: np.ndarray | slice) -> Float[np.ndarray, " m"]:
        """What is compared: ``gain`` of the tokens ``column``, -inf if it is no longer worth selecting.

        Rounded to fp32 unless gains are exact, as the last digits of a sum depend on its shape: equal tokens tie.
        """

    def current(self, best: Int[np.ndarray, " n"]) -> Int[np.ndarray, " m"] | None:
        """Those tokens, of which ``gain`` is what they add now, as candidates; None: too few are.

        Default: all, as :meth:`commit` sees to it.

        Args:
            best: all tokens in the order of what they seem to be worth.
        """
        return best

    def refresh(self, best: Int[np.ndarray, " n"], many: int) -> None:
        """Make ``gain`` of at least one more of these tokens current; of the first ``many`` if that suits."""
        return

    @abstractmethod
    def open(self, column: Int[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
        """Begin a block of candidates, which are current; their gains."""

    @abstractmethod
    def pick(self, at: int) -> Float[np.ndarray, " m"]:
        """Select number ``at`` of the block; the gains within the block."""

    @abstractmethod
    def commit(self) -> None:
        """Account for what was picked since, if anything was; before that, ``gain`` is of the block's beginning."""


class Coverage(Objective):
    """The coverage that a token adds: how much it raises the maximum over the selected tokens, summed over targets.

    Args:
        cover: how much a target (row) is covered by a token (column), not negative.
        weight: multiplies what a token adds.
    """

    def __init__(self, cover: Float[Tensor, "i n"], weight: Float[Tensor, " n"]) -> None:
        self._cover, self._weight = cover, as_array(weight.double())
        self._covered, self._is_current = cover.new_zeros(len(cover), 1), False
        self.commit()

    def worth(self, gain: np.ndarray, column: np.ndarray | slice) -> np.ndarray:
        return gain.astype(np.float32)

    def open(self, column: np.ndarray) -> np.ndarray:
        self._column, self._block = column, self._cover[:, column]
        return self.gain[column]

    def pick(self, at: int) -> np.ndarray:
        self._covered, self._is_current = torch.maximum(self._covered, self._block[:, at : at + 1]), False
        return self._weight[self._column] * as_array(added_coverage(self._block, self._covered))

    def commit(self) -> None:
        if not self._is_current:
            self.gain = self._weight * as_array(added_coverage(self._cover, self._covered))
            self._is_current = True


def added_coverage(cover: Float[Tensor, "*b i n"], covered: Float[Tensor, "*b i 1"]) -> Float[Tensor, "*b n"]:
    """How much each token (column) raises what is covered, summed over the targets in fp64."""
    return (cover - covered).clamp_(min=0).sum(-2, dtype=torch.float64)


def select(objective: Objective, keep: int, selected: Sequence[int] = ()) -> list[int]:
    """The selected tokens in order: one by one, the token that is worth most.

    Of equals the earlier one is selected. If nothing else is worth selecting, there are fewer than ``keep``. The gains
    account for the last block after another :meth:`Objective.commit`.

    Args:
        objective: what is maximised.
        keep: how many to select.
        selected: what was selected before, which the objective accounts for; these are counted and come first.
    """
    order = list(selected)
    gone = np.zeros(len(objective.gain), dtype=bool)
    gone[order] = True
    many = 2 * objective.block
    while len(order) < keep:
        objective.commit()
        column, limit, after, many = _candidates(objective, gone, many)
        worth, number = objective.worth(objective.open(column), column), column.tolist()
        closed, picked = gone[column], list[int]()
        while len(order) + len(picked) < keep:
            worth[closed] = -math.inf
            at = int(worth.argmax())  # of equals, the first
            value = float(worth[at])
            if value == -math.inf or value < limit or (value == limit and number[at] > after):
                break
            picked.append(at)
            closed[at] = True
            worth = objective.worth(objective.pick(at), column)
        if not picked:
            break
        order += [number[at] for at in picked]
        gone[column[picked]] = True
    return order


def _candidates(
    objective: Objective, gone: Bool[np.ndarray, " n"], many: int
) -> tuple[np.ndarray, float, float, int]:
    """The best tokens in their order; what others are worth at most, and the first of these that is.

    All of them are current. Those that only seem good are refreshed, ``many`` of them and more from round to round;
    the last number is how many to begin with next time.
    """
    while True:
        worth = objective.worth(objective.gain, slice(None))
        worth[gone] = -math.inf
        best = np.argsort(-worth, kind="stable")
        current = objective.current(best)
        if current is not None:
            break
        objective.refresh(best, many)
        many *= 4
    column = current[: objective.block]
    limit, after = -math.inf, math.inf
    if len(column) < len(best):
        inside = np.zeros(len(best), dtype=bool)
        inside[column] = True
        first = best[inside[best].argmin()]
        limit, after = float(worth[first]), float(first)
    # Where much had to be refreshed, most of it goes out of date each time: all at once is faster then.
    again = len(gone) if many > 2 * len(gone) else max(many // 4, 2 * objective.block)
    return np.sort(column), limit, after, again
