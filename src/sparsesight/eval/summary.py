"""Summarises the samples of a run folder: scores, differences and costs with their intervals, as JSON-ready data.

The result does not depend on when, or in how many sessions, the samples were made.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np

from ..equal_cost import EQUAL
from .metrics import Metric
from .records import Sample
from .statistics import DRAWS, SEED, Array, Estimate, estimate, mcnemar, resample
from .sweep import DENSE, RunSpec, budget_text
from .task import check_join

Runs = Mapping[str, Sequence[Sample]]  # samples by the label of their cell


def summarise(
    tasks: Mapping[str, tuple[Metric, Runs]],
    cells: Sequence[RunSpec],
    *,
    solved: bool = False,
    nouns: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The summary of a sweep.

    Args:
        tasks: the metric of each task, and the samples of every cell that is done.
        cells: in the order of the report; those without samples are left out.
        solved: whether budgets were solved for equal cost; without that nothing is said to be a comparison at equal
            cost, however near costs are.
        nouns: what a unit of a task is, such as "scene"; "unit" by default.

    Raises:
        SparseSightError: if cells of a task did not answer the same questions.
    """
    found, shares = {}, {}
    for task, (metric, runs) in tasks.items():
        mine = [cell for cell in cells if cell.label in runs]
        if mine:
            found[task], shares[task] = _task(task, metric, runs, mine)
            found[task]["unit"] = (nouns or {}).get(task, "unit")
    return {
        "draws": DRAWS,
        "seed": SEED,
        "costs": {"solved": solved, **_costs(found, cells)},
        "overall": _overall(shares, found),
        "tasks": found,
    }


def _task(
    task: str, metric: Metric, runs: Runs, cells: Sequence[RunSpec]
) -> tuple[dict[str, Any], dict[str, tuple[float, Array]]]:
    """A task's part of the summary, and each cell's score as % of dense, now and in every draw."""
    ordered = {cell.label: sorted(runs[cell.label], key=lambda s: s.id) for cell in cells}
    check_join(task, ordered)
    compared = _Compared(task, metric, ordered)
    samples = ordered[cells[0].label]
    result: dict[str, Any] = {
        "metric": metric.title,
        "samples": len(samples),
        "units": compared.units,
        "cells": {},
        "pairs": [
            {"retain": budget_text(one.retain), **compared.pair(one.label, other.label)}
            for one, other in combinations([c for c in cells if c.retain is not None], 2)
            if one.retain is not None and one.retain == other.retain
        ],
        "tags": {},
    }
    shares = {}
    for cell in cells:
        share = compared.share(cell.label)
        if share is not None:
            shares[cell.label] = share
        result["cells"][cell.label] = {
            "name": cell.name,
            "retain": None if cell.retain is None else budget_text(cell.retain),
            "method": None if cell.method is None else cell.method.to_dict(),
            "score": asdict(compared.score(cell.label)),
            "of_dense": None if share is None else asdict(estimate(*share, compared.units)),
            "against_dense": compared.against_dense(cell.label),
            "cost": _mean_cost(ordered[cell.label]),
        }
    for tag in sorted({tag for sample in samples for tag in sample.tags}):
        tagged = {label: [sample for sample in mine if tag in sample.tags] for label, mine in ordered.items()}
        part = _Compared(f"{task}/{tag}", metric, tagged)
        result["tags"][tag] = {
            "samples": len(tagged[cells[0].label]),
            "units": part.units,
            "cells": {
                cell.label: {
                    "score": asdict(part.score(cell.label)),
                    "against_dense": part.against_dense(cell.label),
                }
                for cell in cells
            },
            "pairs": [
                {"retain": pair["retain"], **part.pair(pair["first"], pair["second"])}
                for pair in result["pairs"]
            ],
        }
    return result, shares


class _Compared:
    """Runs that answered the same questions, in the same order, drawn together."""

    def __init__(self, name: str, metric: Metric, runs: Runs) -> None:
        samples = next(iter(runs.values()))
        unit = [f"{sample.part}/{sample.unit}" if metric.stratified else sample.unit for sample in samples]
        stratum = [sample.part for sample in samples] if metric.stratified else None
        rows = np.stack([metric.rows(mine) for mine in runs.values()], axis=1)  # [n, runs, k]
        n, count, k = rows.shape
        # Tasks are drawn independently of each other.
        seed = zlib.crc32(f"{SEED} {name}".encode())
        totals = resample(rows.reshape(n, count * k), unit, stratum, seed=seed).reshape(-1, count, k)
        values, drawn = metric.value(rows.sum(0)), metric.value(totals)
        self.units = len(set(unit))
        self._value = {label: float(value) for label, value in zip(runs, values, strict=True)}
        self._drawn = {label: drawn[:, i] for i, label in enumerate(runs)}
        self._marks = {label: metric.marks(mine) for label, mine in runs.items()}

    def score(self, label: str) -> Estimate:
        return estimate(self._value[label], self._drawn[label], self.units)

    def pair(self, first: str, second: str) -> dict[str, Any]:
        """Score of the first less that of the second."""
        one, other = self._marks[first], self._marks[second]
        value = self._value[first] - self._value[second]
        return {
            "first": first,
            "second": second,
            "difference": asdict(estimate(value, self._drawn[first] - self._drawn[second], self.units)),
            "mcnemar": None if one is None or other is None else asdict(mcnemar(one, other)),
        }

    def against_dense(self, label: str) -> dict[str, Any] | None:
        if label == DENSE or DENSE not in self._value:
            return None
        found = self.pair(label, DENSE)
        return {"difference": found["difference"], "mcnemar": found["mcnemar"]}

    def share(self, label: str) -> tuple[float, Array] | None:
        """Score as % of dense, and the same in every draw; None where dense scores nothing."""
        if DENSE not in self._value or self._value[DENSE] == 0 or (self._drawn[DENSE] == 0).any():
            return None
        return (
            100 * self._value[label] / self._value[DENSE],
            100 * self._drawn[label] / self._drawn[DENSE],
        )


def _mean_cost(samples: Sequence[Sample]) -> dict[str, float]:
    """Means over the samples of whatever is a number in their costs."""
    costs: list[dict[str, Any]] = [dict(sample.cost) for sample in samples]
    names = [name for name, value in costs[0].items() if isinstance(value, int | float)]
    means = {name: round(sum(cost[name] for cost in costs) / len(costs), 4) for name in names}
    return {**means, "ran_dense": sum(bool(cost["note"]) for cost in costs)}


def _costs(tasks: Mapping[str, Any], cells: Sequence[RunSpec]) -> dict[str, Any]:
    """By how much the mean prefill FLOPs of the methods at one budget differ, at most over the tasks; a budget of one
    method has nothing to differ from."""
    spread: dict[str, float] = {}
    for budget in dict.fromkeys(budget_text(cell.retain) for cell in cells if cell.retain is not None):
        for task in tasks.values():
            macs = [c["cost"]["macs_sparse"] for c in task["cells"].values() if c["retain"] == budget]
            if len(macs) > 1:
                spread[budget] = round(max(spread.get(budget, 0.0), max(macs) / min(macs) - 1), 4)
    return {"equal": all(x <= EQUAL for x in spread.values()), "allowed": EQUAL, "spread": spread}


def _overall(
    shares: Mapping[str, Mapping[str, tuple[float, Array]]], tasks: Mapping[str, Any]
) -> dict[str, Any]:
    """For cells that all tasks have: the score as % of dense and the FLOPs as a share of dense, averaged over tasks."""
    overall = {}
    for label in dict.fromkeys(label for task in shares.values() for label in task):
        if all(label in task["cells"] for task in tasks.values()) and all(
            label in x for x in shares.values()
        ):
            value = float(np.mean([x[label][0] for x in shares.values()]))
            drawn = np.mean([x[label][1] for x in shares.values()], axis=0)
            costs = [task["cells"][label]["cost"] for task in tasks.values()]
            macs = [cost["macs_sparse"] / cost["macs_dense"] for cost in costs]
            overall[label] = {
                "of_dense": asdict(estimate(value, drawn, min(task["units"] for task in tasks.values()))),
                "macs_share": round(float(np.mean(macs)), 6),
            }
    return overall
