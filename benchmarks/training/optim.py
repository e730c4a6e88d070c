"""Muon for the matrices, AdamW for the rest, one schedule for both."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


class Optimizer:
    """Muon (Jordan et al. 2024) on two-dimensional weights, AdamW on everything else; a trapezoid schedule."""

    def __init__(
        self,
        named: Iterable[tuple[str, nn.Parameter]],
        steps: int,
        matrix_rate: float,
        rate: float,
        decay: float,
    ) -> None:
        """`steps` in all, the last share `decay` of them falling linearly to zero."""
        matrices, others = [], []
        for name, weight in named:
            table = "embed" in name or "lm_head" in name
            (matrices if weight.dim() == 2 and not table else others).append(weight)
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
        ]
        if matrices:
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
