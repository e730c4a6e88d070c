"""Low-rank deltas (LoRA, Hu et al. 2021) that are added into the weights before each step.

Forward and backward then cost what the plain model costs; only the gradients of the two thin factors are made, never
that of a whole matrix.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


class _Product(torch.autograd.Function):
    """x @ (weight + b a)^T with the sum given; gradients go to x and to the thin factors."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, merged: torch.Tensor, a: torch.Tensor, b: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(x, merged, a, b)
        return F.linear(x, merged)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, merged, a, b = ctx.saved_tensors
        flat, rows = gradient.flatten(0, -2), x.flatten(0, -2)
        thin = flat @ b.to(flat.dtype)
        to_a = thin.T @ rows
        to_b = flat.T @ (rows @ a.T.to(rows.dtype))
        return gradient @ merged, None, to_a.to(a.dtype), to_b.to(b.dtype)


class LowRank(nn.Module):
    """A frozen linear layer without bias, and its delta b @ a: a [rank, in], b [out, rank]."""

    def __init__(self, linear: nn.Linear, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        out, into = linear.weight.shape
        self.base = linear.weight.detach()
        self.a = nn.Parameter(torch.randn(rank, into, generator=generator) / math.sqrt(into))
        self.b = nn.Parameter(torch.zeros(out, rank))
        self.merged = self.base.clone()

    @torch.no_grad()
    def start(self, a: torch.Tensor, b: torch.Tensor) -> None:
        """Become a known delta of at most this rank; the ranks that are left over change nothing yet."""
        self.a[: len(a)], self.b[:, : len(a)] = a, b
        self.b[:, len(a) :] = 0

    @torch.no_grad()
    def merge(self) -> None:
        """Bring the sum up to date; to be called after a and b have changed."""
        kind = self.base.dtype
        torch.addmm(self.base, self.b.to(kind), self.a.to(kind), out=self.merged)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _Product.apply(x, self.merged, self.a, self.b)


def attach(decoder: nn.Module, rank: int, seed: int) -> dict[str, LowRank]:
    """Put a delta on every linear layer of a decoder in place: name of the layer -> its delta."""
    generator = torch.Generator().manual_seed(seed)
    found = {name: module for name, module in decoder.named_modules() if isinstance(module, nn.Linear)}
    deltas = {}
    for name, linear in found.items():
        deltas[name] = LowRank(linear, rank, generator)
        parent, _, last = name.rpartition(".")
        setattr(decoder.get_submodule(parent), last, deltas[name])
    return deltas


def merge_all(deltas: dict[str, LowRank]) -> None:
    for delta in deltas.values():
        delta.merge()


@torch.no_grad()
def truncated(delta: LowRank, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The best approximation of a delta by fewer ranks: a [rank, in] and b [out, rank], alike in size."""
    qa, ra = torch.linalg.qr(delta.a.float().T)
    qb, rb = torch.linalg.qr(delta.b.float())
    u, s, v = torch.linalg.svd(rb @ ra.T, full_matrices=False)
    root = s[:rank].sqrt()
    return root[:, None] * (v[:rank] @ qa.T), (qb @ u[:, :rank]) * root
