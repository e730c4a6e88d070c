"""A sweep's result for a terminal: one table per task, of the differences that matter; the rest is in ``table.md``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..bench.table import Table
from .sweep import DENSE
from .tables import FEW, estimate, short, stands_for, title


def brief(summary: Mapping[str, Any]) -> tuple[str, list[Table]]:
    """A heading, and a table for each task; of several tasks one of their means comes first.

    Args:
        summary: of :func:`~.summary.summarise`.
    """
    made = []
    if len(summary["tasks"]) > 1 and summary["overall"]:
        rows = [
            [label, estimate(x["of_dense"]).text(), f"{x['macs_share']:.0%}"]
            for label, x in summary["overall"].items()
        ]
        made.append(Table("all tasks", ["method", "% of dense, mean over tasks", "FLOPs"], rows))
    made += [_scores(name, task) for name, task in summary["tasks"].items()]
    stands = stands_for(summary)
    stands = stands and f"{stands}, own retain what each method gets for it; "
    found = "≈: no difference found, as the 95 % interval contains zero; no interval: too few units"
    return f"{title(summary)}; {stands}{found}", made


def _scores(name: str, task: Mapping[str, Any]) -> Table:
    rows = []
    for cell in task["cells"].values():
        cost, against = cell["cost"], cell["against_dense"]
        rows.append(
            [
                cell["name"],
                cell["retain"] or "",
                f"{cell['score']['value']:.1f}",
                "" if against is None else short(against["difference"], sign=True),
                f"{cost['macs_sparse'] / cost['macs_dense']:.0%}",
                "" if cell["name"] == DENSE else f"{cost['equal_tokens']:.0f}",
            ]
        )
    few = "; too few for reliable intervals" if task["units"] < FEW else ""
    heads = ["method", "budget", task["metric"], "difference from dense", "FLOPs", "own retain"]
    units = f"{task['units']} unit{'' if task['units'] == 1 else 's'}"
    return Table(f"{name}: {task['samples']} questions in {units}{few}", heads, rows)
