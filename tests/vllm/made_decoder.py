"""A decoder, its attention and a step as the pruner sees them, without vLLM."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from sparsesight import (
    Random,
)
from sparsesight.methods import Method
from sparsesight.vllm.metadata import StageTables
from sparsesight.vllm.planner import Planner, RequestPlan
from sparsesight.vllm.pruner import Pruner

from .test_metadata import SIZE, common
from .test_planner import Place, step

WIDTH, VISUAL = 4, 8


class RotaryEmbedding(nn.Module):
    """Named as vLLM's."""

    base = 10.0

    def _compute_inv_freq(self, base: float) -> torch.Tensor:
        return base ** -torch.arange(WIDTH // 2)


class MRotaryEmbedding(RotaryEmbedding):
    """Named as vLLM's for several axes."""

    scaling_factor: float | None = None


class Attention(nn.Module):
    """Passes on its query."""

    num_heads = num_kv_heads = 1
    head_size = WIDTH
    sliding_window: int | None = None
    impl = SimpleNamespace(scale=1.0, logits_soft_cap=0.0)

    def __init__(self, number: int) -> None:
        super().__init__()
        self.layer_name = f"layer{number}"

    def forward(self, query: Any, key: Any, value: Any) -> Any:
        return query


class Layer(nn.Module):
    """Adds the position of every row, so that a wrong row or position shows."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.self_attn = nn.Module()
        self.self_attn.total_num_heads = self.self_attn.total_num_kv_heads = 1
        self.self_attn.attn = Attention(number)
        self.self_attn.rotary_emb = RotaryEmbedding()
        self.seen: list[torch.Tensor] = []

    def forward(self, positions: Any, hidden: Any, residual: Any) -> Any:
        positions = positions.reshape(-1, positions.shape[-1])[-1]  # the last axis, if there are several
        self.seen.append(positions)
        residual = hidden if residual is None else hidden + residual
        self.self_attn.attn(residual, residual, residual)
        return positions[:, None].float().expand_as(hidden), residual


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(i) for i in range(3))
        self.norm = Norm()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, positions: Any, hidden: Any) -> Any:
        residual = None
        for layer in self.layers:
            hidden, residual = layer(positions, hidden, residual)
        return self.norm(hidden, residual)[0]


class Norm(nn.Module):
    def forward(self, hidden: Any, residual: Any) -> Any:
        return hidden + residual, hidden + residual


class Builder:
    kv_cache_spec = SimpleNamespace(block_size=SIZE)

    def build_stage(self, given: Any) -> Any:
        return SimpleNamespace(
            sparsesight_common=given, sparsesight_builders={0: self}, sparsesight_tables=StageTables()
        )


def context(query: list[int], seq: list[int]) -> Any:
    dense = Builder().build_stage(common(query, seq))
    names = [f"layer{i}" for i in range(3)]
    slots = dense.sparsesight_common.slot_mapping
    return SimpleNamespace(
        attn_metadata=dict.fromkeys(names, dense), slot_mapping=dict.fromkeys(names, slots)
    )


def installed(method: Method = Random((4,), (0,))) -> tuple[Pruner, Decoder]:  # noqa: B008 - it is frozen
    decoder = Decoder()
    stages = method.stage_layers(3)
    pruner = Pruner(Planner(method, stages, 3, block_size=SIZE), decoder)
    given: list[tuple[str, int]] = []
    pruner.install(lambda attention, stage: given.append((str(attention.layer_name), stage)))
    assert given == [(f"layer{i}", 0 if i > stages[0] else -1) for i in range(3)]
    return pruner, decoder


def hooked(decoder: Decoder) -> bool:
    """Whether a call of any module is more than its forward."""
    return any(m._forward_pre_hooks or m._forward_hooks for m in decoder.modules())


def planned(
    pruner: Pruner, visual: int = VISUAL, extra_args: Any = None, name: str = "request 0"
) -> RequestPlan:
    """Of a token, a picture and two more."""
    return pruner.plan_of(name, [Place(1, visual)], None, visual + 3, SimpleNamespace(extra_args=extra_args))


def begin(pruner: Pruner, ctx: Any, *requests: tuple[int, int, RequestPlan]) -> None:
    pruner.note()
    pruner.begin(step(*requests), lambda r: f"request {r}", ctx)


LENGTH = VISUAL + 3
