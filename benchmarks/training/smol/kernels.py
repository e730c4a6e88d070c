"""Attention and norms that train fast on a CPU, and the search: how well heads find what a question asks for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface

NAME = "grouped"  # what `attn_implementation` calls it


@dataclass
class Search:
    """Rows of attention to look at: what they should find, and what each head of each layer gave to it."""

    picture: torch.Tensor  # [rows]
    place: torch.Tensor  # [rows]: token of the picture's sequence
    sought: torch.Tensor  # float [rows, tokens]: 1 on the tokens to be found
    chained: torch.Tensor  # bool [rows]: found by way of another object, such as a neighbour
    counted: torch.Tensor  # [rows]: how many objects are counted, or negative
    found: list[torch.Tensor] = field(default_factory=list)  # per layer [rows, heads]

    def loss(self) -> torch.Tensor:
        """Minus the log of the attention on what is sought, in the four heads of any layer that find it best."""
        mass, asked = torch.stack(self.found).clamp(min=1e-4).log(), self.counted < 0  # [layers, rows, heads]
        parts = [
            -mass[:, group].mean(1).flatten().topk(4).values.mean()
            for group in (~self.chained & asked, self.chained & asked)
            if group.any()
        ]
        return torch.stack(parts).sum() if parts else mass.sum() * 0

    def counting_loss(self) -> torch.Tensor:
        """How far attention on n counted objects is from n / (n + 2), in the four heads of any layer that are nearest.

        A number can be read from attention that grows with it.
        """
        found, counts = torch.stack(self.found), self.counted >= 0
        if not counts.any():
            return found.sum() * 0
        n = self.counted[counts].float()
        missed = (found[:, counts] - (n / (n + 2))[:, None]).square().mean(1)
        return missed.flatten().topk(4, largest=False).values.mean()


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float,
    search: Search | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Plain products: in bfloat16 on a CPU their backward is several times faster than the fused kernel's.

    The queries that share a key head are one product, so keys are not repeated. Shapes as in transformers:
    query [b, heads, t, d], key and value [b, key heads, t, d], mask [b, 1, t, t] in the dtype of the query.
    """
    batch, heads, length, width = query.shape
    groups = key.shape[1]
    rows = (query * scaling).reshape(batch * groups, -1, width)
    keys, values = (x.reshape(batch * groups, length, width) for x in (key, value))
    scores = torch.bmm(rows, keys.transpose(1, 2)).view(batch, heads, length, length) + attention_mask
    weights = scores.softmax(-1)
    if search is not None:
        seen = weights[search.picture, :, search.place]  # [rows, heads, t]
        search.found.append((seen.float() * search.sought[:, None]).sum(-1))
    mixed = torch.bmm(weights.view(batch * groups, -1, length), values)
    return mixed.view(batch, heads, length, width).transpose(1, 2), None


AttentionInterface.register(NAME, attend)


class _Everywhere(torch.autograd.Function):
    """Attention without a mask, of scaled queries, keys and values [n, t, d]; only the weights are kept."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        weights = torch.bmm(query, key.transpose(1, 2)).softmax(-1)
        ctx.save_for_backward(query, key, value, weights)
        return torch.bmm(weights, value)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
        query, key, value, weights = ctx.saved_tensors
        to_value = torch.bmm(weights.transpose(1, 2), gradient)
        to_weights = torch.bmm(gradient, value.transpose(1, 2))
        to_scores = torch._softmax_backward_data(to_weights, weights, -1, weights.dtype)
        return torch.bmm(to_scores, key), torch.bmm(to_scores.transpose(1, 2), query), to_value


def attend_everywhere(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    scaling: float,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """A vision tower's attention. Its time in training (bfloat16, one core) is 0.74 of the fused kernel's."""
    batch, heads, length, width = query.shape
    rows, keys, values = (x.reshape(batch * heads, length, width) for x in (query * scaling, key, value))
    mixed = _Everywhere.apply(rows, keys, values)
    return mixed.view(batch, heads, length, width).transpose(1, 2), None


EVERYWHERE = "everywhere"
AttentionInterface.register(EVERYWHERE, attend_everywhere)


class _Norm(torch.autograd.Function):
    """RMS norm of x with a frozen scale, in float32 inside."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: torch.Tensor, epsilon: float) -> torch.Tensor:
        wide = x.float()
        size = torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
        normal = wide.mul_(size) if x.dtype != torch.float32 else wide * size
        ctx.save_for_backward(normal.to(x.dtype), size, scale)
        return (normal * scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        normal, size, scale = ctx.saved_tensors
        wide, normal = gradient.float() * scale, normal.float()
        along = (wide * normal).mean(-1, keepdim=True)
        return wide.sub_(normal.mul_(along)).mul_(size).to(gradient.dtype), None, None


class FrozenNorm(nn.Module):
    """A norm layer of a Llama whose scale is not trained, with a backward of few passes."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.scale, self.epsilon = norm.weight.detach().float(), norm.variance_epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _Norm.apply(x, self.scale, self.epsilon)


def freeze_norms(decoder: Any) -> None:
    """Put `FrozenNorm` in place of a Llama decoder's norms."""
    for layer in decoder.layers:
        layer.input_layernorm = FrozenNorm(layer.input_layernorm)
        layer.post_attention_layernorm = FrozenNorm(layer.post_attention_layernorm)
    decoder.norm = FrozenNorm(decoder.norm)
