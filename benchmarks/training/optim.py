"""AdamW, with Muon for the matrices where it pays, under one schedule."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


class Optimizer:
    """AdamW; or Muon (Jordan et al. 2024) on matrices and AdamW on the rest. A trapezoid schedule.

    Muon is the faster where labels are dense, as in the tower. On answers, a few per question, it makes as much of
    the noise in a gradient as of the rest: AdamW learned in minutes what Muon did not.
    """

    def __init__(
        self,
        named: Iterable[tuple[str, nn.Parameter]],
        steps: int,
        rate: float,
        decay: float,
        matrix_rate: float | None = None,
    ) -> None:
        """`steps` in all, the last share `decay` of them falling linearly to zero; Muon if it has a rate."""
        matrices, others = [], []
        for name, weight in named:
            matrix = weight.dim() == 2 and "embed" not in name
            (matrices if matrix and matrix_rate is not None else others).append(weight)
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
        ]
        if matrix_rate is not None:
            self.parts.append(
                torch.optim.Muon(
                    matrices, lr=matrix_rate, weight_decay=0.01, adjust_lr_fn="original", ns_steps=4
                )
            )
        self.rates = [part.param_groups[0]["lr"] for part in self.parts]
        self.steps, self.decay, self.warm_up = steps, decay, 40

    def step(self, index: int) -> None:
        """Apply the gradients with the rates of step `index` and clear them."""
        left = (self.steps - index) / (self.steps * self.decay)
        scale = min(1.0, (index + 1) / self.warm_up, left)
        for part, rate in zip(self.parts, self.rates, strict=True):
            part.param_groups[0]["lr"] = rate * scale
            part.step()
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> list[Any]:
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, state: list[Any]) -> None:
        for part, saved in zip(self.parts, state, strict=True):
            part.load_state_dict(saved)
