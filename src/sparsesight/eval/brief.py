"""A sweep's result for a terminal: one sentence, a table per task of the differences that matter, and what their words
mean; the rest is in ``table.md``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..bench.table import Table
from ..equal_cost import EQUAL
from ..report import listed
from .statistics import LEAST
from .sweep import DENSE
from .tables import FEW, estimate, short, size, stands_for, title, units

NAMED = 3  # methods that a sentence names


class Brief(NamedTuple):
    """What a terminal shows, from top to bottom."""

    headline: str
    tables: list[Table]
    notes: list[str]


def brief(summary: Mapping[str, Any]) -> Brief:
    """The result in a sentence, a table for each task (of several tasks one of their means comes first), and notes.

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
    return Brief(headline(summary), made, _notes(summary, made))


def headline(summary: Mapping[str, Any]) -> str:
    """What scores highest where least is computed, and what is not told apart from it, in a sentence.

    Of several tasks it is about their mean.
    """
    name, task = next(iter(summary["tasks"].items()))
    cells, dense = task["cells"], task["cells"].get(DENSE)
    labels = [label for label in cells if label != DENSE]
    if not labels:
        return f"Only the dense model ran: {dense['score']['value']:.1f} on {name}."
    overall = summary["overall"] if len(summary["tasks"]) > 1 else {}
    if any(label in overall for label in labels):
        labels = [label for label in labels if label in overall]
        scores = {label: overall[label]["of_dense"]["value"] for label in labels}
        macs = {label: overall[label]["macs_share"] for label in labels}
        beside = " % of the dense score on average"
    else:
        overall = {}
        scores = {label: cells[label]["score"]["value"] for label in labels}
        costs = {label: cells[label]["cost"] for label in labels}
        macs = {label: cost["macs_sparse"] / cost["macs_dense"] for label, cost in costs.items()}
        beside = " %" if task["metric"].endswith("%") else ""
        beside += f" on {name}" if len(summary["tasks"]) > 1 else ""
        beside += "" if dense is None else f", dense {dense['score']['value']:.1f}"
    budget = cells[min(labels, key=lambda label: macs[label])]["retain"]
    best = sorted((x for x in labels if cells[x]["retain"] == budget), key=lambda x: -scores[x])
    shown = {label: f"{scores[label]:.1f}" for label in best}
    first = [label for label in best if shown[label] == shown[best[0]]]
    names = [cells[label]["name"] for label in best]
    at = "" if budget is None else f" at {budget}"
    verb = "scores" if len(first) == 1 else "score"
    verb += f"{at}:" if len(best) == 1 else f" highest{at}:"
    cost = _cost([macs[label] for label in best])
    others = ", ".join(f"{cells[label]['name']} {shown[label]}" for label in best[len(first) :][:NAMED])
    return (
        f"{listed(names[: len(first)])} {verb} {shown[best[0]]}{beside}, for {cost} of the prefill FLOPs"
        + (f"; next {others}" if others else "")
        + ("" if overall or len(best) == 1 else _apart(task, best))
        + "."
    )


def _cost(shares: Sequence[float]) -> str:
    """The cost of the first of some methods, with the others' where these are not the same."""
    low, high = min(shares), max(shares)
    differ = high / low - 1 > EQUAL and f"{low:.0%}" != f"{high:.0%}"
    return f"{shares[0]:.0%}" + (f" (others: {low:.0%} to {high:.0%})" if differ else "")


def _apart(task: Mapping[str, Any], best: Sequence[str]) -> str:
    """Which methods the intervals of paired differences do not tell from the first of ``best``."""
    if task["units"] < LEAST:
        return f"; {units(task)} {'is' if task['units'] == 1 else 'are'} too few to tell them apart"
    pairs = {frozenset((pair["first"], pair["second"])): pair["difference"] for pair in task["pairs"]}
    found = {label: pairs.get(frozenset((best[0], label))) for label in best[1:]}
    alike = [
        task["cells"][label]["name"]
        for label, difference in found.items()
        if difference is not None and estimate(difference).holds(0)
    ]
    return f"; not told apart from it: {listed(alike)}" if alike else ""


def _notes(summary: Mapping[str, Any], made: Sequence[Table]) -> list[str]:
    """A line for each mark that the tables have."""
    cells = " ".join(cell for table in made for row in table.cells for cell in row)
    stands = stands_for(summary)
    few = {task["unit"] for task in summary["tasks"].values() if task["units"] < LEAST}
    what = f"{few.pop()}s" if len(few) == 1 else "units"
    return [
        title(summary),
        *([f"{stands}; own retain: what the method gets for it"] if stands else []),
        *(["≈: the 95 % interval contains zero, no difference found"] if "≈" in cells else []),
        *([f"no interval: fewer than {LEAST} {what}"] if "(no interval)" in cells else []),
    ]


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
    return Table(f"{name}: {size(task)}{few}", heads, rows, keys=2)
