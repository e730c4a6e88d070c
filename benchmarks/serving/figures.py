"""Rows of a table from measured times: percentiles, rates, and ratios within a turn."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np

from sparsesight.core.whole_blocks import in_whole_blocks
from sparsesight.methods import Method
from sparsesight.random_models import Shape

from .chats import Kind

Run = dict[
    str, Any
]  # a burst as JSON: turn, requests, retain (None: vanilla), first, first_cpu, wall, cpu, tokens


def request_macs(shape: Shape, method: Method | None, tokens: int) -> tuple[int, int]:
    """Multiply-adds of one request, up to its first token and in all; the method's own are left out.

    Args:
        shape: of the model and the prompt.
        method: None for every visual token.
        tokens: output tokens; each but the first is a decoding step over the keys that every layer holds.
    """
    decoder, layers = shape.decoder, shape.layers
    visual = [shape.visual] * layers
    if method is not None:
        visual = list(method.plan(shape.visual, layers, method.stage_layers(layers)).entering)
    keys = [shape.text + n for n in visual]
    first = decoder.prefill_macs(keys)
    later = (decoder.prefill_macs([1] * layers, [n + t for n in keys]) for t in range(tokens - 1))
    return first, first + sum(later)


def limits(shape: Shape, method: Method, tokens: int) -> tuple[float, float]:
    """How many times faster arithmetic alone lets a first token, and a whole request, be."""
    dense, sparse = request_macs(shape, None, tokens), request_macs(shape, method, tokens)
    return dense[0] / sparse[0], dense[1] / sparse[1]


def block_limit(shape: Shape, method: Method, block: int) -> float:
    """The ratio of a first token, pruned to vanilla, by arithmetic alone; whole blocks of ``block`` keys go."""
    layers, decoder = shape.layers, shape.decoder
    plan = method.plan(shape.visual, layers, method.stage_layers(layers))
    entering = in_whole_blocks(plan, block, method.recycled_fraction).entering
    pruned = decoder.prefill_macs([shape.text + n for n in entering])
    return pruned / decoder.prefill_macs([shape.text + shape.visual] * layers)


def rows(runs: Sequence[Run], shape: Shape, methods: dict[int, Method]) -> list[dict[str, Any]]:
    """A row for each number of requests and each budget, vanilla first.

    Numbers are medians over turns. Ratios (above 1: better than vanilla) are taken within a turn, then medians over
    turns, so that a machine that drifts does not bend them.
    """
    made = []
    for requests in sorted({run["requests"] for run in runs}):
        budgets = {run["retain"] for run in runs if run["requests"] == requests}
        for retain in sorted(budgets, key=lambda x: -1e9 if x is None else -x):
            made.append(_row(runs, requests, retain, shape, methods))
    return made


def _row(
    runs: Sequence[Run], requests: int, retain: int | None, shape: Shape, methods: dict[int, Method]
) -> dict[str, Any]:
    def of(budget: int | None) -> dict[int, Run]:
        return {run["turn"]: run for run in runs if (run["requests"], run["retain"]) == (requests, budget)}

    own, vanilla = of(retain), of(None)
    turns = sorted(own.keys() & vanilla.keys())

    def ratio(number: Any) -> float | None:
        return median(number(vanilla[t]) / number(own[t]) for t in turns) if turns else None

    def middle(number: Any) -> float:
        return median(number(run) for run in own.values())

    def first_at(percent: int, clock: str = "first") -> Any:
        return lambda run: float(np.percentile(run[clock], percent))

    tokens = next(iter(own.values()))["tokens"] // requests
    first_limit, request_limit = (1.0, 1.0) if retain is None else limits(shape, methods[retain], tokens)
    return {
        "requests": requests,
        "retain": retain,
        "turns": len(own),
        "first_p50_s": middle(first_at(50)),
        "first_p99_s": middle(first_at(99)),
        "first_p50_ratio": ratio(first_at(50)),
        "first_p99_ratio": ratio(first_at(99)),
        "first_p50_cpu_ratio": ratio(first_at(50, "first_cpu")),
        "first_p99_cpu_ratio": ratio(first_at(99, "first_cpu")),
        "first_limit": first_limit,
        "requests_per_s": middle(lambda run: requests / run["wall"]),
        "tokens_per_s": middle(lambda run: run["tokens"] / run["wall"]),
        "rate_ratio": ratio(lambda run: run["wall"]),
        "rate_limit": request_limit,
        "cpu_s": middle(lambda run: run["cpu"]),
        "cpu_ratio": ratio(lambda run: run["cpu"]),
    }


def chats(runs: Sequence[Run], kinds: Sequence[Kind]) -> list[dict[str, Any]]:
    """A row for each kind of chat and each budget: times to the first token, summed over a chat's turns.

    Ratios to vanilla (below 1: faster) are taken within a round, then medians over rounds. ``first_turn`` and
    ``later_turns`` are ratios by processor time of the parts of that sum, None where a chat has one turn only.
    """
    made = []
    for kind in kinds:
        own = [run for run in runs if run["chat"] == kind.name]
        vanilla = {run["round"]: run for run in own if run["retain"] is None}
        for retain in sorted({run["retain"] for run in own} - {None}, reverse=True):
            pairs = [
                (run, vanilla[run["round"]])
                for run in own
                if run["retain"] == retain
                if run["round"] in vanilla
            ]
            if pairs:
                made.append({"chat": kind.title, "retain": retain, **_chat(pairs)})
    return made


def _chat(pairs: Sequence[tuple[Run, Run]]) -> dict[str, Any]:
    def ratios(clock: str, turns: slice = slice(None)) -> list[float]:
        return [sum(one[clock][turns]) / sum(other[clock][turns]) for one, other in pairs]

    def middle(side: int, number: Any) -> float:
        return median(number(pair[side]) for pair in pairs)

    several = len(pairs[0][0]["first"]) > 1
    cpu = ratios("first_cpu")
    return {
        "rounds": len(pairs),
        "vanilla_s": middle(1, lambda run: sum(run["first_cpu"])),
        "pruned_s": middle(0, lambda run: sum(run["first_cpu"])),
        "cpu": median(cpu),
        "lowest": min(cpu),
        "highest": max(cpu),
        "wall": median(ratios("first")),
        "first_turn": median(ratios("first_cpu", slice(1))) if several else None,
        "later_turns": median(ratios("first_cpu", slice(1, None))) if several else None,
        "prompt": middle(0, lambda run: sum(run["prompt"])),
        "vanilla_cached": middle(1, lambda run: sum(run["cached"])),
        "cached": middle(0, lambda run: sum(run["cached"])),
        "answered": sum(run["answered"] for run, _ in pairs),
    }


def idle(runs: Sequence[Run], states: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each state of the server, each thing that is timed, and each clock.

    ``lowest`` and ``highest`` are the median ratios of turns: steps of one may share what disturbs them, turns less so.
    """
    made = []
    for state in states:
        own = [run for run in runs if run["state"] == state]
        for what, prefix in (("step", ""), ("arrival", "added_")):
            for clock, title in (("wall", "wall clock"), ("cpu", "processor time")):
                turns = [(run["vanilla"][prefix + clock], run["sparsesight"][prefix + clock]) for run in own]
                if not turns:
                    continue
                ratios = [paired(*turn)["ratio"] for turn in turns]
                every = [[x for turn in turns for x in turn[side]] for side in (0, 1)]
                row = {"state": state, "what": what, "clock": title, **paired(*every)}
                made.append({**row, "lowest": min(ratios), "highest": max(ratios)})
    return made


def paired(vanilla: Sequence[float], other: Sequence[float]) -> dict[str, float]:
    """How much more the other engine took for the same steps, or for the same arrivals.

    Returns:
        ``ratio``, the median of the ratios of the steps, with its 95 % interval (from the ranks, as steps are many and
        their distribution is unknown); ``vanilla_us`` and ``extra_us``, the medians of vanilla's time and of the
        differences, in microseconds; ``sum_ratio``, of the sums, which a single interruption can bend.
    """
    ratios = np.sort(np.array(other) / np.array(vanilla))
    n = len(ratios)
    reach = 0.98 * n**0.5  # 1.96 standard deviations of the number of steps below the median
    low, high = int(max(n / 2 - reach, 0)), int(min(np.ceil(n / 2 + reach), n - 1))
    return {
        "steps": n,
        "ratio": float(np.median(ratios)),
        "low": float(ratios[low]),
        "high": float(ratios[high]),
        "vanilla_us": float(np.median(vanilla) * 1e6),
        "extra_us": float(np.median(np.array(other) - np.array(vanilla)) * 1e6),
        "sum_ratio": float(np.sum(other) / np.sum(vanilla)),
    }
