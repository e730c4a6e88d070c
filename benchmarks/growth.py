"""How time, memory and overhead grow with what sweeps of ``sparsesight bench`` varied: exponents and drawings.

    python benchmarks/growth.py RUN/bench.json ... [--out FOLDER]

Rows of several runs are taken together, such as runs of random models of different depth. Writes growth.md and
growth-AXIS.png for every axis (visual, batch, depth) that varies; where others vary as well, one for each of their
values.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import linear_regression
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparsesight.bench.sweep import AXES, Line, Row, asked, heads, label, lines
from sparsesight.bench.table import Table, markdown_table
from sparsesight.eval.plot import FONT, MARKERS, aside, name_lines
from sparsesight.viz.colours import LINES, web

LAST = 3  # so many of the largest sizes: what does not grow at all bends the small ones

# What is measured, each followed by what arithmetic demands.
COLUMNS: tuple[tuple[str, Callable[[Row], float]], ...] = (
    ("prefill", lambda row: row["prefill_sparse_ms"]),
    ("(processor)", lambda row: row["prefill_sparse_cpu_ms"]),
    ("FLOPs", lambda row: row["macs_sparse"]),
    ("dense", lambda row: row["prefill_dense_ms"]),
    ("(processor)", lambda row: row["prefill_dense_cpu_ms"]),
    ("FLOPs", lambda row: row["macs_dense"]),
    ("peak", lambda row: row["peak_sparse_bytes"]),
    ("at least", lambda row: row["least_peak_sparse_bytes"]),
    ("KV held", lambda row: row["kv_held_sparse_bytes"]),
    ("at least", lambda row: row["kv_sparse_bytes"]),
    ("overhead (processor)", lambda row: sum(row["overhead_us_cpu"].values())),
    ("its FLOPs", lambda row: row["macs_overhead"]),
)


class Panel(NamedTuple):
    title: str
    unit: str
    sparse: str  # key of a method's number
    dense: str | None  # key of the dense one, if there is any
    scale: float  # what to divide by


def panels(processor: bool) -> tuple[Panel, ...]:
    """What is drawn; times by the wall clock (CUDA: events), or of the processor, which a loaded machine disturbs less.

    On one thread the two are the same on a quiet machine.
    """
    end, clock = ("_cpu", "processor time") if processor else ("", "time")
    first = f"{clock} to the first token"
    return (
        Panel(first, "ms", f"first_token_sparse{end}_ms", f"first_token_dense{end}_ms", 1),
        Panel("peak memory without weights", "MB", "peak_sparse_bytes", "peak_dense_bytes", 1e6),
        Panel("KV cache", "MB", "kv_sparse_bytes", "kv_dense_bytes", 1e6),
        Panel(f"overhead, {clock}", "% of the sparse prefill", f"overhead_share{end}", None, 0.01),
    )


def exponent(sizes: Sequence[int], values: Sequence[float]) -> float | None:
    """The ``e`` of ``size**e`` through the last values, by least squares of logarithms; None if one is not positive."""
    sizes, values = sizes[-LAST:], values[-LAST:]
    if min(values) <= 0:
        return None
    return linear_regression([math.log(x) for x in sizes], [math.log(y) for y in values]).slope


def slopes(rows: Sequence[Row]) -> list[Table]:
    """A table for each axis that the rows vary; each line is a method and a budget."""
    made = []
    for axis, what in AXES.items():
        cells = []
        for line in lines(rows, axis):
            found = [exponent(line.sizes, [of(row) for row in line.rows]) for _, of in COLUMNS]
            cells.append([*line.which, *("-" if x is None else f"{x:.2f}" for x in found)])
        if cells:
            title = f"Growth with {what}: exponents over the {LAST} largest (1: linear), measured, and as it has to be"
            made.append(Table(title, [*heads(axis, asked(rows)), *(name for name, _ in COLUMNS)], cells))
    return made


def drawings(rows: Sequence[Row]) -> dict[str, tuple[str, list[Line]]]:
    """The axis and the lines of each drawing, by its name."""
    found: dict[str, tuple[str, list[Line]]] = {}
    for axis in AXES:
        varied = [other for other in AXES if other != axis and len({row[other] for row in rows}) > 1]
        for line in lines(rows, axis):
            name = "-".join([axis, *(f"{other}{line.fixed[other]}" for other in varied)])
            found.setdefault(name, (axis, []))[1].append(line)
    return found


def draw(drawn: Sequence[Line], axis: str, processor: bool = False) -> Figure:
    """The :func:`panels` against an axis: dense, and a line for each method and budget, with their exponents."""
    shown = panels(processor)
    figure = Figure(figsize=(13, 9), layout="constrained")
    grid: Any = figure.subplots(2, 2).flat
    dense = {size: row for line in drawn for size, row in zip(line.sizes, line.rows, strict=True)}
    ticks = sorted(dense)
    budgets, what = {line.retain for line in drawn}, asked([row for line in drawn for row in line.rows])
    for axes, panel in zip(grid, shown, strict=True):
        axes.set_xscale("log", base=2)
        if panel.dense is not None:  # every row of a size has the same dense model
            values = [dense[size][panel.dense] / panel.scale for size in ticks]
            _plot(axes, ticks, values, "dense", True, color="#666666", linestyle=":")
            axes.set_yscale("log")
        for number, line in enumerate(drawn):
            values = [row[panel.sparse] / panel.scale for row in line.rows]
            style = {
                "color": web(LINES[number % len(LINES)]),
                "marker": MARKERS[number % len(MARKERS)],
                "transform": aside(figure, axes, number, len(drawn)),
            }
            name = line.method if len(budgets) == 1 else label(line.method, line.retain, what)
            _plot(axes, line.sizes, values, name, panel.dense is not None, **style)
        axes.set_xlim(ticks[0] / 1.15, ticks[-1] * 1.15)
        axes.set_xticks(ticks, [str(n) for n in ticks])
        axes.set_xticks([], minor=True)
        _set_height(axes, from_zero=panel.dense is None)
        axes.set_title(panel.title, fontsize=FONT)
        axes.set_ylabel(panel.unit, fontsize=FONT)
        axes.set_xlabel(AXES[axis], fontsize=FONT)
        axes.tick_params(which="both", labelsize=FONT - 2)
        axes.grid(axis="y", color="#dddddd")
        axes.spines[["top", "right"]].set_visible(False)
        name_lines(axes)
    if len(budgets) == 1:
        figure.suptitle(f"retain {budgets.pop()}", fontsize=FONT)
    return figure


def _set_height(axes: Axes, *, from_zero: bool) -> None:
    """Limits of the y axis: shifted lines do not count for those that matplotlib finds."""
    values = [float(y) for line in axes.get_lines() for y in line.get_ydata()]
    if from_zero:
        axes.set_ylim(0, 1.05 * max(values) or 1)
    else:
        axes.set_ylim(min(values) / 1.2, max(values) * 1.2)


def _plot(axes: Axes, sizes: list[int], values: list[float], name: str, sloped: bool, **style: Any) -> None:
    slope = exponent(sizes, values) if sloped else None
    text = name if slope is None else f"{name}: n^{slope:.2f}"
    axes.plot(sizes, values, **{"marker": "o", "markersize": 6, "linewidth": 1.5, "label": text, **style})


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="bench.json of each run")
    parser.add_argument("--out", type=Path, help="folder; default: that of the first run")
    options = parser.parse_args(arguments)
    runs = [json.loads(path.read_text()) for path in options.runs]
    rows = [row for run in runs for row in run["rows"]]
    out = options.out or options.runs[0].parent
    out.mkdir(parents=True, exist_ok=True)
    config = ", ".join(f"{k} {v}" for k, v in runs[0]["config"].items())
    pages = ["# Growth", "", config, *(markdown_table(made) for made in slopes(rows))]
    (out / "growth.md").write_text("\n".join(pages) + "\n")
    alone = all(run["config"]["threads"] == 1 and "cuda" not in run["config"] for run in runs)
    for name, (axis, drawn) in drawings(rows).items():
        draw(drawn, axis, processor=alone).savefig(out / f"growth-{name}.png", dpi=100)


if __name__ == "__main__":
    main()
