"""Markdown tables, and what all plots share: colours that colour-blind readers tell apart, and bars with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from .intervals import GROUPS, Estimate

# Okabe and Ito, "Color Universal Design", 2008; yellow is too faint on white and left out.
COLORS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#0072B2", "#CC79A7")
MARKERS = ("o", "s", "^", "v", "D", "P", "X")
STYLE: Any = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "savefig.dpi": 130,
}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def shown(found: Estimate | None, value: str = "share") -> str:
    """A share with its interval, "0.931 (0.915 to 0.946)"; nothing for a group without questions."""
    if found is None:
        return ""
    return f"{found[value]:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def group_names(columns: dict[str, dict[str, Estimate]]) -> list[str]:
    """The groups that any condition has questions of, in the order of `GROUPS`."""
    return [group for group in GROUPS if any(group in column for column in columns.values())]


def group_table(columns: dict[str, dict[str, Estimate]]) -> str:
    """A row for each group of questions, a column for each condition; n stands apart where it is always the same."""
    names = group_names(columns)
    rows = [
        [(one["n"] if one else 0, shown(one)) for one in (column.get(name) for column in columns.values())]
        for name in names
    ]
    if all(len({n for n, _ in row}) == 1 for row in rows):
        head, cells = ["n", *columns], [[f"{row[0][0]:.0f}", *(text for _, text in row)] for row in rows]
    else:
        head, cells = [*columns], [[f"{text}, n {n:.0f}" if text else "" for n, text in row] for row in rows]
    return table(["questions", *head], [[name, *row] for name, row in zip(names, cells, strict=True)])


def group_bars(columns: dict[str, dict[str, Estimate]], title: str, path: Path) -> None:
    """A cluster of bars for each group of questions, a colour for each condition."""
    names = group_names(columns)
    breadth = 0.84 / len(columns)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(14, 5), layout="constrained")
        for index, (label, column) in enumerate(columns.items()):
            here = [place for place, name in enumerate(names) if name in column]
            found = [column[names[place]] for place in here]
            share = np.array([one["share"] for one in found])
            error = [
                [one["share"] - one["low"] for one in found],
                [one["high"] - one["share"] for one in found],
            ]
            axes.bar(
                np.array(here) + (index - (len(columns) - 1) / 2) * breadth,
                share,
                0.92 * breadth,
                yerr=np.clip(error, 0, None),
                label=label,
                color=COLORS[(index + 1) % len(COLORS)],
                error_kw={"elinewidth": 1, "ecolor": "#333333"},
            )
        axes.set_xticks(range(len(names)), names, rotation=20, ha="right")
        axes.set_xlim(-0.6, len(names) - 0.4)
        axes.set_ylim(0, 1.02)
        axes.set_ylabel("exactly right answers")
        axes.set_title(title, loc="left")
        figure.legend(loc="outside lower center", ncols=len(columns), frameon=False)
        figure.savefig(path)
        plt.close(figure)
