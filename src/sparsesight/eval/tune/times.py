"""Times of settings, for ``--by time``: measured in turns, and taken for no less than noise allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from ...errors import SparseSightError
from ...methods import Method
from ..own.task import OwnRows
from ..sweep import DENSE, LOOKED_AT
from .settings import Setting

REPEATS = 5


def measured_times(
    task: OwnRows, settings: Sequence[Setting], repeats: int = REPEATS
) -> tuple[dict[str, float], str]:
    """Milliseconds to the first token of a prompt of median length among the first rows, by name, with ``"dense"``; and
    a sentence where the machine was too noisy, else "".

    By :func:`sparsesight.bench.bench`: all take turns in random order, and each is held against the dense model within
    a turn. Settings that keep every token of this prompt are left out.
    """
    from ...bench import Case, bench
    from ...hf.model_parts import inspect_model

    loaded, items = task.loaded, task.items[:LOOKED_AT]
    parts, sizes = inspect_model(loaded.model), task.sizes(items)
    middle = sorted(range(len(items)), key=lambda i: (sizes[i].visual, sizes[i].text))[len(items) // 2]

    def prunes(method: Method) -> bool:
        try:
            layers = method.stage_layers(len(parts.layers), parts.prunable)
            return bool(method.plan(sizes[middle].visual, len(parts.layers), layers).stages)
        except SparseSightError:
            return False

    cases = [Case(x.name, None, x.method) for x in settings if prunes(x.method)]
    prompt = task.whole_inputs([items[middle]])
    rows = bench(loaded.model, prompt, cases, repeats=repeats, steps=0, text_tower=loaded.text_tower)
    if not rows:
        raise SparseSightError("--by time: no setting drops a token of the prompt that would be timed")
    return judged(rows)


def judged(rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, float], str]:
    """Times by :func:`~sparsesight.bench.bench`'s rows, and what cannot be told from them.

    A setting's time is the dense one over the median speed-up of the turns. One that was slower than the dense model in
    any turn has the dense time at least: it might save nothing.
    """
    dense = float(rows[0]["first_token_dense_ms"])
    found = {row["method"]: row["spread"]["first_token_speedup"] for row in rows}
    unsure = [name for name, x in found.items() if x["min"] <= 1 < x["median"]]
    times = {
        name: dense / (min(x["median"], 1) if name in unsure else x["median"]) for name, x in found.items()
    }
    order = sorted((x for x in found if x not in unsure), key=times.__getitem__)
    alike = [(a, b) for a, b in pairwise(order) if found[a]["min"] <= found[b]["max"]]
    said = []
    if unsure:
        said.append(
            f"{len(unsure)} of {len(found)} settings were faster than the dense model in most turns but not in all "
            f"({_range(unsure[0], found)}), and are left out"
        )
    if alike:
        one, other = alike[0]
        said.append(
            f"the times of {len(alike)} of {len(found)} settings overlap with those of the next slower one "
            f"({_range(one, found)}, {_range(other, found)}): which of them is faster is not known"
        )
    if said:
        said.append("the promise stands, but measure again on a quiet machine for the times")
    return {DENSE: dense, **times}, "; ".join(said)


def _range(name: str, found: Mapping[str, Mapping[str, float]]) -> str:
    return f"{name}: {found[name]['min']:.2f} to {found[name]['max']:.2f} times as fast"
