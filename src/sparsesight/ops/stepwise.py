"""Greedy selection of a batch where nothing may be read from the device: all samples take the same steps.

Launching an operation costs a device more than these small ones take, so there are few for each step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .determinant import EXHAUSTED
from .points import Points

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

AT_ONCE = 2**24  # kernel entries that are computed beforehand: 128 MB
WIDEST = 1024  # tokens of which it is worth it: a step needs one row


class StepwiseDeterminant:
    """:class:`.determinant.Determinant`, selected by a pivoted Cholesky factor of the kernel, step by step.

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
        self, favor: Float[Tensor, "b v"] | None = None, favored: Sequence[int] = ()
    ) -> tuple[Int[Tensor, "b v"], Bool[Tensor, "b v"]]:
        """The places of the selected tokens, and which these are.

        Args:
            favor: multiplies what each token is worth in a sample's first steps, above 0.
            favored: number of these steps per sample; on the host.
        """
        together, most = min(favored, default=0), max(favored, default=0)
        if together < most:
            until = torch.tensor(favored).to(self.gain.device, non_blocking=True)[:, None]
        gone = torch.zeros_like(self._floor, dtype=torch.bool)
        picks, worths = (
            [gone.new_empty(len(gone), 0, dtype=torch.long)],
            [self.gain.new_empty(len(gone), 0).float()],
        )
        for step in range(self._factor.shape[1]):
            worth = self.gain
            if favor is not None and step < most:
                some = favor if step < together else favor.where(until > step, 1)
                worth = worth * some
            # Rounded, as the last digits of a matrix product depend on its shape: equal tokens tie.
            worth = worth.float().masked_fill((self.gain <= self._floor) | gone, -math.inf)
            best, pick = worth.max(1, keepdim=True)  # of equals, the first
            self._take(step, pick)
            gone.scatter_(1, pick, True)
            picks.append(pick)
            worths.append(best)
        width = gone.shape[1]
        picked = torch.cat(picks, 1)
        number = torch.arange(picked.shape[1], device=picked.device).expand_as(picked)
        picked = picked.where((torch.cat(worths, 1) > -math.inf) & self._open, width)
        place = picked.new_zeros(len(gone), width + 1).scatter_(1, picked, number)
        taken = torch.zeros_like(place, dtype=torch.bool).scatter_(1, picked, True)
        return place[:, :width], taken[:, :width]

    def _rows(self, pick: Int[Tensor, "b m"]) -> Float[Tensor, "b m v"]:
        """Some rows of the kernel."""
        return self._kernel(self._points.from_tokens(pick), self._weight.gather(1, pick), self._weight)

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
