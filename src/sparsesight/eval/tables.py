"""Formats a summary as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..equal_cost import STANDS_FOR
from .statistics import LEAST, Estimate
from .sweep import DENSE

Latencies = Mapping[tuple[str, str], float]  # milliseconds of a sample's prefill, by task and label

CONTROLS = ("random", "uniform")  # methods that every other is held against, group by group
FEW = 20  # units, below which the bootstrap's intervals are known to be too narrow

LEGEND = """\
Scores and differences have 95 % intervals (paired bootstrap, {draws} draws over the units of each task), each for one
comparison; p is McNemar's exact test on the questions that one of two answers rightly and the other does not. "≈" and
"no difference found" mean that the interval contains zero, or that there is none, as of fewer than {least} units, where
chance can do as much even if all of them agree. MACs are multiply-adds of the language model's prefill per
sample, the method's own overhead included; KV is the cache after it. A method's own retain, the number to give
`sparsify` and `ask`, is the visual tokens that leave a layer, averaged over the layers.{stands}
"""


def title(summary: Mapping[str, Any]) -> str:
    """Whether methods were compared at equal cost, in words."""
    costs = summary["costs"]
    retains = {
        label: cell["retain"]
        for task in summary["tasks"].values()
        for label, cell in task["cells"].items()
        if label != DENSE
    }
    if not retains:
        return "dense only"
    if all(retain is None for retain in retains.values()):
        return "no common budget, each at its own cost"
    if not costs["spread"]:
        return f"{'' if costs['solved'] else 'same retain, '}one method at each budget, no costs to compare"
    if not costs["solved"]:
        return f"same retain (mean prefill FLOPs at one retain differ by up to {max(costs['spread'].values()):.1%})"
    if costs["equal"]:
        return f"equal cost (mean prefill FLOPs at one budget differ by at most {max(costs['spread'].values()):.1%})"
    beyond = {k: v for k, v in costs["spread"].items() if v > costs["allowed"]}
    return "costs differ: " + ", ".join(f"by {x:.1%} at budget {budget}" for budget, x in beyond.items())


def stands_for(summary: Mapping[str, Any]) -> str:
    """What a budget is, if budgets were solved for equal cost."""
    cells = (cell for task in summary["tasks"].values() for cell in task["cells"].values())
    return STANDS_FOR if summary["costs"]["solved"] and any(cell["retain"] for cell in cells) else ""


def units(task: Mapping[str, Any]) -> str:
    """How many units a task has, by what they are: "2 scenes"."""
    return f"{task['units']} {task['unit']}{'' if task['units'] == 1 else 's'}"


def size(task: Mapping[str, Any]) -> str:
    """How much a task asks: "18 questions about 2 scenes", "18 questions" where each is a unit of its own."""
    if task["unit"] == "question":
        return (
            units(task) if task["samples"] == task["units"] else f"{task['samples']} prompts of {units(task)}"
        )
    asked = f"{task['samples']} question{'' if task['samples'] == 1 else 's'}"
    return f"{asked} {'in' if task['unit'] == 'unit' else 'about'} {units(task)}"


def markdown(summary: Mapping[str, Any], about: Mapping[str, Any], latencies: Latencies) -> str:
    """The whole report.

    Args:
        summary: of :func:`~.summary.summarise`.
        about: what was run, a line each.
        latencies: where measured.
    """
    parts = [f"# Sweep: {title(summary)}\n"]
    parts += [f"- {name}: {value}\n" for name, value in about.items()]
    stands = stands_for(summary).capitalize()
    parts.append("\n" + LEGEND.format(draws=summary["draws"], least=LEAST, stands=stands and f"\n{stands}."))
    if len(summary["tasks"]) > 1 and summary["overall"]:
        head = ["method", "% of dense, mean over tasks", "FLOPs, % of dense"]
        rows = [
            [label, estimate(x["of_dense"]).text(), f"{100 * x['macs_share']:.1f}"]
            for label, x in summary["overall"].items()
        ]
        parts += ["\n## All tasks\n\n", _table(head, rows)]
    for name, task in summary["tasks"].items():
        few = f" With {units(task)} no interval is reliable." if task["units"] < FEW else ""
        parts.append(f"\n## {name}\n\n{size(task)}.{few}\n\n")
        parts.append(_scores(name, task, latencies))
        for budget in [x for x in _budgets(task) if any(pair["retain"] == x for pair in task["pairs"])]:
            parts.append(f"\n### {name}: methods against each other at budget {budget}\n\n")
            parts.append(_pairs([pair for pair in task["pairs"] if pair["retain"] == budget]))
        for budget in _budgets(task) if task["tags"] else ():
            at = f" at budget {budget}: score and difference from dense" if budget else ""
            parts.append(f"\n### {name}: groups of questions{at}\n\n")
            parts.append(_tags(task, budget))
            for control in controls(task, budget):
                parts.append(f"\n### {name}: groups of questions: difference from {control}\n\n")
                parts.append(_tags_beside(task, budget, control))
    return "".join(parts)


def _budgets(task: Mapping[str, Any]) -> list[str]:
    """In their order; one empty word where only the dense model ran."""
    found = dict.fromkeys(cell["retain"] for cell in task["cells"].values() if cell["retain"] is not None)
    return list(found) or [""]


def _scores(name: str, task: Mapping[str, Any], latencies: Latencies) -> str:
    head = ["method", "budget", f"score ({task['metric']})", "difference from dense", "p", "% of dense"]
    head += ["MACs", "overhead", "own retain", "tokens entering a layer", "KV"]
    timed = any((name, label) in latencies for label in task["cells"])
    rows = []
    for label, cell in task["cells"].items():
        cost = cell["cost"]
        row = [cell["name"], cell["retain"] or "", estimate(cell["score"]).text(), *_against(cell)]
        row.append("" if cell["of_dense"] is None else f"{cell['of_dense']['value']:.1f}")
        row += [_si(cost["macs_sparse"]), f"{cost['macs_scoring'] / cost['macs_sparse']:.2%}"]
        row += [f"{cost['equal_tokens']:.1f}", f"{cost['equal_tokens_entering']:.1f}"]
        row.append(f"{_si(cost['kv_bytes_sparse'])}B")
        if timed:
            ms = latencies.get((name, label))
            row.append("" if ms is None else f"{ms:.1f}")
        rows.append(row)
    table = _table([*head, "prefill, ms"] if timed else head, rows)
    dense = {label: cell["cost"]["ran_dense"] for label, cell in task["cells"].items() if label != DENSE}
    notes = [f"{label} pruned nothing in {count} samples." for label, count in dense.items() if count]
    return table + ("\n" + " ".join(notes) + "\n" if notes else "")


def _pairs(pairs: Sequence[Mapping[str, Any]]) -> str:
    """A triangle: the method of the row less that of the column."""
    labels = list(dict.fromkeys(label for pair in pairs for label in (pair["first"], pair["second"])))
    known = {(pair["first"], pair["second"]): pair for pair in pairs}
    rows = []
    for row in labels[:-1]:
        cells = []
        for column in labels[1:]:
            pair = known.get((row, column))
            cells.append("" if pair is None else short(pair["difference"]) + _p_in_words(pair["mcnemar"]))
        rows.append([row, *cells])
    return _table(["row less column", *labels[1:]], rows)


def _tags(task: Mapping[str, Any], budget: str) -> str:
    """A row for each group of questions: the dense score, and each method's with its difference from it."""
    labels = [label for label, cell in task["cells"].items() if cell["retain"] in (None, budget)]
    rows = []
    for tag, group in task["tags"].items():
        row = [f"{tag} (n {group['samples']})"]
        for label in labels:
            cell = group["cells"][label]
            if cell["against_dense"] is None:
                row.append(estimate(cell["score"]).text())
            else:
                difference = short(cell["against_dense"]["difference"], sign=True)
                row.append(f"{cell['score']['value']:.1f}, {difference}")
        rows.append(row)
    return _table(["questions", *labels], rows)


def controls(task: Mapping[str, Any], budget: str) -> list[str]:
    """The labels of the controls that ran at a budget."""
    return [
        label
        for name in CONTROLS
        for label, cell in task["cells"].items()
        if cell["retain"] is not None and cell["retain"] == budget and cell["method"]["method"] == name
    ]


def beside(pairs: Sequence[Mapping[str, Any]], label: str, control: str) -> Mapping[str, Any] | None:
    """The paired difference of a method from a control, whichever of them stood first."""
    for pair in pairs:
        if (pair["first"], pair["second"]) == (label, control):
            found: Mapping[str, Any] = pair["difference"]
            return found
        if (pair["first"], pair["second"]) == (control, label):
            value, low, high = (pair["difference"][key] for key in ("value", "low", "high"))
            flipped = [None if x is None else -x for x in (value, high, low)]
            return dict(zip(("value", "low", "high"), flipped, strict=True))
    return None


def _tags_beside(task: Mapping[str, Any], budget: str, control: str) -> str:
    """A row for each group of questions: what each method scores more than a control, paired."""
    labels = [label for label, cell in task["cells"].items() if cell["retain"] == budget and label != control]
    rows = []
    for tag, group in task["tags"].items():
        found = [beside(group["pairs"], label, control) for label in labels]
        rows.append(
            [f"{tag} (n {group['samples']})", *("" if x is None else short(x, sign=True) for x in found)]
        )
    return _table(["questions", *labels], rows)


def _against(cell: Mapping[str, Any]) -> tuple[str, str]:
    found = cell["against_dense"]
    if found is None:
        return "", ""
    test = found["mcnemar"]
    return estimate(found["difference"]).as_difference(), "" if test is None else _p(test["p"])


def short(difference: Mapping[str, Any], sign: bool = False) -> str:
    """``-2.3 (-3.9 to -0.7)``, or ``≈ -0.2 (-1.0 to 0.6)`` where no difference was found."""
    found = estimate(difference)
    text = found.text()
    if sign and found.value > 0:
        text = f"+{text}"
    return f"≈ {text}" if found.holds(0) else text


def _p_in_words(test: Mapping[str, Any] | None) -> str:
    if test is None:
        return ""
    p = _p(test["p"])
    return f", p {p}" if p.startswith("<") else f", p = {p}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def estimate(found: Mapping[str, Any]) -> Estimate:
    """A number of a summary with its interval."""
    return Estimate(found["value"], found["low"], found["high"])


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; what would end a cell is written out."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(x.replace("|", "\\|") for x in line) + " |\n" for line in lines)


def _si(value: float) -> str:
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}"
    return f"{value:.0f} "
