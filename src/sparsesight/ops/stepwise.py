"""Greedy selection of a batch where nothing may be read from the device: all samples take the same steps.

Launching an operation costs a device more than these small ones take, so there are few for each step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .objectives import EXHAUSTED
from .points import Points

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

AT_ONCE = 2**24  # kernel entries that are computed beforehand: 128 MB
WIDEST = 1024  # tokens of which it is worth it: a step needs one row


class StepwiseDeterminant:
    """:class:`.objectives.Determinant`, selected by a pivoted Cholesky factor of the kernel, step by step.

    Args:
        points: of the tokens.
        kernel: from squared distances, which it may overwrite, and weights of rows and columns.
        weight: of the tokens.
        own: the kernel's diagonal, 0 on padding.
        keep: number of tokens to select per sample.
        steps: the largest of ``keep``, on the host, and at most the number of tokens.
    """

    def __init__(
        self,
        points: Points,
        kernel: Callable[[Tensor, Tensor, Tensor], Tensor],
        weight: Float[Tensor, "b v"],
        own: Float[Tensor, "b v"],
        keep: Int[Tensor, " b"],
        steps: int,
    ) -> None:
        b, v = own.shape
        self._points, self._kernel, self._weight = points, kernel, weight
        every = torch.arange(v, device=own.device).expand(b, -1)
        self._every = self._rows(every) if v <= WIDEST and b * v**2 <= AT_ONCE else None
        self._floor = EXHAUSTED * own
        self._factor = own.new_zeros(b, steps, v)
        self._open = torch.arange(steps, device=own.device) < keep[:, None]  # whether a sample takes a step
        self._nothing = own.new_zeros(())
        self.gain = own.clone()

    @property
    def adds(self) -> Bool[Tensor, "b v"]:
        """Whether a token still adds anything."""
        return self.gain > self._floor

    def select(
        self, given: Int[Tensor, "b v"], held: Sequence[int]
    ) -> tuple[Int[Tensor, "b v"], Bool[Tensor, "b v"]]:
        """The places of the selected tokens, and which these are.

        Args:
            given: places, of which the first ``held`` are selected in any case.
            held: number of given tokens per sample, at most ``keep`` and the valid ones.
        """
        together, most = min(held, default=0), max(held, default=0)
        order = given.argsort(dim=1, stable=True)[:, :together]
        gone = torch.zeros_like(self._floor, dtype=torch.bool).scatter_(1, order, True)
        picks, worths = [order], [torch.zeros_like(order, dtype=torch.float)]
        if together:
            self._take_all(order)
        if together < most:
            late = given.where(given < torch.tensor(held).to(given.device, non_blocking=True)[:, None], -1)
        for step in range(together, self._factor.shape[1]):
            # Rounded, as the last digits of a matrix product depend on its shape: equal tokens tie.
            worth = self.gain.float().masked_fill_((self.gain <= self._floor) | gone, -math.inf)
            if step < most:  # some samples have a token that is given
                worth.masked_fill_(late == step, math.inf)
            best, pick = worth.max(1, keepdim=True)  # of equals, the first
            self._take(step, pick)
            gone.scatter_(1, pick, True)
            picks.append(pick)
            worths.append(best)
        picked, nowhere = torch.cat(picks, 1), given.shape[1]
        number = torch.arange(picked.shape[1], device=given.device).expand_as(picked)
        picked = picked.where((torch.cat(worths, 1) > -math.inf) & self._open, nowhere)
        place = given.new_zeros(len(given), nowhere + 1).scatter_(1, picked, number)
        taken = torch.zeros_like(place, dtype=torch.bool).scatter_(1, picked, True)
        return place[:, :nowhere], taken[:, :nowhere]

    def _rows(self, pick: Int[Tensor, "b m"]) -> Float[Tensor, "b m v"]:
        """Some rows of the kernel."""
        return self._kernel(self._points.from_tokens(pick), self._weight.gather(1, pick), self._weight)

    def _take_all(self, order: Int[Tensor, "b m"]) -> None:
        """Select tokens that are known beforehand: factor their own part first, then solve for all others at once."""
        count = order.shape[1]
        rows = self._rows(order)
        left = rows.gather(2, order[:, None].expand(-1, count, -1))
        floor, lower, adds = self._floor.gather(1, order), torch.zeros_like(left), list[Tensor]()
        for step in range(count):
            own = left[:, step, step]
            adds.append(own > floor[:, step])
            column = left[:, :, step] * own.rsqrt().where(adds[-1], self._nothing)[:, None]
            lower[:, :, step] = column
            left.baddbmm_(column[:, :, None], column[:, None], alpha=-1)
        useful = torch.stack(adds, 1)[..., None]
        # A token that adds nothing to those before it gets a row and a column of the identity.
        lower = lower.tril_().where(useful, torch.eye(count, dtype=lower.dtype, device=lower.device))
        factor = torch.linalg.solve_triangular(lower, rows.masked_fill_(~useful, 0), upper=False)
        self._factor[:, :count] = factor
        self.gain = self.gain - factor.square_().sum(1)

    def _take(self, step: int, pick: Int[Tensor, "b 1"]) -> None:
        row_of = pick[..., None].expand(-1, -1, self._floor.shape[1])
        row = self._rows(pick) if self._every is None else self._every.gather(1, row_of)
        known = self._factor[:, :step]
        row = torch.baddbmm(
            row, known.gather(2, pick[:, None].expand(-1, step, -1)).transpose(1, 2), known, alpha=-1
        )
        left = self.gain.gather(1, pick)
        adds = (left > self._floor.gather(1, pick)) & self._open[:, step : step + 1]
        new = row[:, 0] * left.rsqrt().where(adds, self._nothing)
        self._factor[:, step] = new
        self.gain = self.gain.addcmul(new, new, value=-1)
