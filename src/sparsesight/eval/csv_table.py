"""Formats a summary as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

from .tables import CONTROLS, Latencies, beside, controls

# Before those that compare with the controls.
COLUMNS = """
task group method budget metric samples units score score_low score_high difference difference_low difference_high
only_method_right only_dense_right mcnemar_p of_dense of_dense_low of_dense_high macs macs_dense macs_overhead
equal_tokens equal_tokens_entering kv_bytes kv_bytes_dense ran_dense prefill_ms
"""
# Columns that are fields of the costs.
COSTS = {
    **{
        name: name
        for name in ("macs_dense", "equal_tokens", "equal_tokens_entering", "kv_bytes_dense", "ran_dense")
    },
    "macs": "macs_sparse",
    "macs_overhead": "macs_scoring",
    "kv_bytes": "kv_bytes_sparse",
}


def comma_separated(summary: Mapping[str, Any], latencies: Latencies) -> str:
    """A row for each task (or group of its questions) and method, in full digits; differences are with dense, and with
    each control that ran at the same budget."""
    text = io.StringIO()
    names = COLUMNS.split()
    names += [f"over_{control}{end}" for control in CONTROLS for end in ("", "_low", "_high")]
    writer = csv.DictWriter(text, names, lineterminator="\n", restval="")
    writer.writeheader()
    for name, task in summary["tasks"].items():
        for label, cell in task["cells"].items():
            common = {
                "task": name,
                "method": cell["name"],
                "budget": cell["retain"] or "",
                "metric": task["metric"],
            }
            cost = {column: cell["cost"][field] for column, field in COSTS.items()}
            compared = {
                **_flat(task, cell),
                **_over(task, task, label),
                **_bounds("of_dense", cell["of_dense"]),
            }
            writer.writerow({**common, **compared, **cost, "prefill_ms": latencies.get((name, label), "")})
            for tag, group in task["tags"].items():
                compared = {**_flat(group, group["cells"][label]), **_over(task, group, label)}
                writer.writerow({**common, "group": tag, **compared})
    return text.getvalue()


def _flat(counts: Mapping[str, Any], cell: Mapping[str, Any]) -> dict[str, Any]:
    found = cell["against_dense"] or {"difference": None, "mcnemar": None}
    test = found["mcnemar"] or {}
    return {
        "samples": counts["samples"],
        "units": counts["units"],
        **_bounds("score", cell["score"]),
        **_bounds("difference", found["difference"]),
        "only_method_right": test.get("first", ""),
        "only_dense_right": test.get("second", ""),
        "mcnemar_p": test.get("p", ""),
    }


def _over(task: Mapping[str, Any], counts: Mapping[str, Any], label: str) -> dict[str, Any]:
    """What a cell scores more than the controls at its budget, over a task or a group of its questions."""
    found: dict[str, Any] = {}
    for control in reversed(controls(task, task["cells"][label]["retain"])):  # of two alike, the first counts
        name = task["cells"][control]["method"]["method"]
        found |= _bounds(f"over_{name}", beside(counts["pairs"], label, control))
    return found


def _bounds(name: str, found: Mapping[str, Any] | None) -> dict[str, Any]:
    if found is None:
        return {}
    return {name: found["value"], f"{name}_low": found["low"], f"{name}_high": found["high"]}
