"""Prompts of one step are selected together: each keeps what it keeps alone, and calls do not grow in number."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from sparsesight import CDPruner, DivPrune, FastV, Halves, Pooling, SparseVLM, SparseVLMPlus, VidCom2
from sparsesight.core.turns import Turns
from sparsesight.methods import Method
from sparsesight.profiling.op_counter import Operations
from sparsesight.vllm.config import RequestBudget
from sparsesight.vllm.layer_attention import LayerFacts, Seen
from sparsesight.vllm.planner import Planner
from sparsesight.vllm.prefill import Prefill, together
from sparsesight.vllm.step_plan import Prompt

HEADS, GROUPS, SIZE, WIDTH = 4, 2, 8, 16
FACTS = LayerFacts(HEADS, GROUPS, SIZE, SIZE**-0.5, None, 10.0 ** -torch.arange(SIZE // 2))
END, PICTURE = 9, 5  # token ids: the end of a turn, a visual token
CPU = torch.device("cpu")


def prompt(
    method: Method, turns: tuple[tuple[int, int], ...], start: int, request: int, cached: int = 0
) -> Prompt:
    """Of turns with so many visual tokens and text tokens after them, with three tokens in front of each."""
    ids = [x for visual, text in turns for x in [1] * 3 + [PICTURE] * visual + [2] * text + [END]]
    of_prompt = np.array(ids)
    planner = Planner(method, method.stage_layers(8), 8, Turns(((END,),)))
    plan = planner.plan(RequestBudget(method, named=True), of_prompt == PICTURE, of_prompt)
    return Prompt(request, start, len(ids) - cached, cached, plan, range(len(plan.regions)))


def step(method: Method) -> list[Prompt]:
    """Prompts of different lengths, budgets and numbers of turns; the last begins behind cached tokens."""
    other = method if method.retain == 1.0 else replace(method, retain=0.4)
    sizes: list[tuple[Any, Any, int]] = [
        (method, ((24, 5),), 0),
        (other, ((18, 4), (12, 6)), 0),
        (method, ((30, 3),), 2),
    ]
    found: list[Prompt] = []
    for request, (own, turns, cached) in enumerate(sizes):
        start = sum(one.length for one in found)
        found.append(prompt(own, turns, start, request, cached))
    return found


def run(method: Method, prompts: list[Prompt], groups: list[tuple[Prompt, ...]]) -> list[list[list[int]]]:
    """What is left of each prompt after each stage, as rows of the step; and hidden states of merged tokens."""
    generator = torch.Generator().manual_seed(1)
    rows = sum(one.length for one in prompts)
    layers = method.stage_layers(8)
    kept: list[list[list[int]]] = [[[] for _ in layers] for _ in prompts]
    embedded = torch.randn(rows, WIDTH, generator=generator)
    q, k = (torch.randn(rows, n * SIZE, generator=generator) for n in (HEADS, GROUPS))
    earlier = torch.randn(2, GROUPS * SIZE, generator=generator)
    position = torch.cat([torch.arange(one.length) for one in prompts])
    for group in groups:
        prefill = Prefill.of(group, layers, CPU, record=True)
        prefill.rate(embedded, position)
        left = torch.arange(rows)
        for index, layer in enumerate(layers):
            lengths = np.array(prefill.lengths)
            first = [int((left < one.start).sum()) for one in group]
            cached = [earlier if one.computed else None for one in group]
            seen = None if layer < 0 else Seen(q[left], k[left], FACTS, cached)
            found, merged, tokens = prefill.select(index, first, embedded[left], None, position[left], seen)
            assert len(found) == sum(prefill.lengths) <= lengths.sum()
            own = left[found]
            for one in group:
                kept[one.request][index] = own[(own >= one.start) & (own < one.start + one.length)].tolist()
            outside = [x for x in left.tolist() if not any(o.start <= x < o.start + o.length for o in group)]
            left = torch.tensor(sorted([*outside, *own.tolist()]))
            assert torch.isfinite(tokens).all() and len(merged) == len(found)
        for one, stages in zip(group, prefill.samples(), strict=True):
            visual = np.flatnonzero(one.plan.visual)
            pruned = np.isin(one.plan.number[visual], one.regions)
            row = visual[pruned] + one.start - one.computed
            for record, own_rows in zip(stages, kept[one.request], strict=True):
                recorded = (record.kept | record.centre)[pruned]
                assert row[recorded].tolist() == sorted({*row.tolist()} & {*own_rows})
    return kept


@pytest.mark.parametrize(
    "method",
    [
        SparseVLMPlus(0.5, (1, 2)),
        SparseVLM(0.5, (1, 2)),
        FastV(0.5, (1,)),
        DivPrune(0.5),
        CDPruner(0.5),
        Pooling(0.5),
        VidCom2(0.5),
        Halves(0.5),
    ],
    ids=str,
)
def test_every_prompt_keeps_what_it_keeps_alone(method: Method) -> None:
    prompts = step(method)
    (group,) = together(prompts)
    assert group == tuple(prompts) and {len(one.regions) for one in prompts} == {1, 2}
    found = run(method, prompts, [group])
    assert found == run(method, prompts, [(one,) for one in prompts])
    assert all(len(own[-1]) < one.length for own, one in zip(found, prompts, strict=True))


def test_what_is_selected_together() -> None:
    method = FastV(0.5, (1,))
    short, other, long = step(method)
    huge = prompt(method, ((600, 5),), 0, 3)
    assert together([short, huge, other, long]) == [(huge,), (short, other, long)]
    different = prompt(SparseVLMPlus(0.5, (1,)), ((24, 5),), 0, 4)
    assert together([short, different]) == [(short,), (different,)]


@pytest.mark.parametrize(
    ("method", "most"),
    [
        (SparseVLMPlus(0.5, (1,)), 160),
        (SparseVLM(0.5, (1,)), 230),
        (FastV(0.5, (1,)), 90),
        (Pooling(0.5), 275),
    ],
    ids=str,
)
def test_calls_of_a_stage_have_a_ceiling(method: Method, most: int) -> None:
    """With the raters, however many prompts; counted are operations that compute something."""
    counts = []
    for n in (1, 4):
        prompts = [prompt(method, ((24, 5),), 33 * i, i) for i in range(n)]
        (group,), layers = together(prompts), method.stage_layers(8)
        embedded, position = torch.randn(33 * n, WIDTH), torch.arange(33).repeat(n)
        seen = Seen(torch.randn(33 * n, HEADS * SIZE), torch.randn(33 * n, GROUPS * SIZE), FACTS, [None] * n)
        with Operations() as counted:
            prefill = Prefill.of(group, layers, CPU)
            prefill.rate(embedded, position)
            prefill.select(
                0, [one.start for one in group], embedded, None, position, seen if layers[0] >= 0 else None
            )
        counts.append(counted.total.kernels)
    assert counts[1] <= counts[0] + 2 and max(counts) <= most, counts


@pytest.mark.parametrize("free", [False, True], ids=["device", "cpu"])
@pytest.mark.parametrize(
    ("method", "each", "cpu_each"), [(DivPrune, 20, 10), (CDPruner, 18, 2)], ids=["divprune", "cdpruner"]
)
def test_calls_of_greedy_methods_grow_with_the_kept_tokens(
    method: type[Method], each: int, cpu_each: int, free: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a device neither with the size of pictures nor with the number of prompts, which a CPU selects one by one."""
    monkeypatch.setattr("sparsesight.ops.diversity.reads_are_free", lambda x: free)
    for visual, n in ((96, 1), (576, 1), (576, 4)):
        for keep in (24, 64):
            made = [prompt(method((keep,)), ((visual, 5),), (visual + 9) * i, i) for i in range(n)]
            rows = (visual + 9) * n
            with Operations() as counted:
                prefill = Prefill.of(together(made)[0], (-1,), CPU)
                position = torch.arange(rows) % (visual + 9)
                prefill.rate(torch.randn(rows, WIDTH), position)
                prefill.select(0, [one.start for one in made], torch.randn(rows, WIDTH), None, position, None)
            most = n * (800 + cpu_each * keep) if free else 200 + each * keep
            assert counted.total.kernels <= most, (visual, n, keep, counted.total.kernels)
