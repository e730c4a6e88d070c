"""Plots the score, as a percentage of the dense score, against the cost of the prefill."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from ..errors import SparseSightError
from ..files import replace_file
from ..viz.colours import LINES, web
from .sweep import DENSE
from .tables import Latencies, title

SPREAD = 0.006  # relative
MARKERS = ("o", "s", "^", "v", "D", "P", "X")


def curves(summary: Mapping[str, Any], latencies: Latencies) -> list[dict[str, dict[str, list[float]]]]:
    """What is drawn: against FLOPs (% of dense), and where every cell was timed against milliseconds of the prefill.

    Returns:
        For each panel the curve of each method by name, ``{"x": ..., "y": ..., "low": ..., "high": ...}`` with y in %
        of dense, cheapest budget first. Of several tasks y is the mean, and milliseconds are the mean over tasks.
    """
    tasks = summary["tasks"]
    first = next(iter(tasks.values()))
    labels = list(summary["overall"])
    timed = bool(labels) and all((task, label) in latencies for task in tasks for label in labels)

    def panel(x_of: Mapping[str, float]) -> dict[str, dict[str, list[float]]]:
        drawn: dict[str, dict[str, list[float]]] = {}
        for label in sorted(labels, key=x_of.__getitem__):
            point = summary["overall"][label]["of_dense"]
            low, high = (point[key] if point[key] is not None else point["value"] for key in ("low", "high"))
            curve = drawn.setdefault(first["cells"][label]["name"], {"x": [], "y": [], "low": [], "high": []})
            for key, value in zip(curve, (x_of[label], point["value"], low, high), strict=True):
                curve[key].append(value)
        return {name: drawn[name] for name in dict.fromkeys(first["cells"][x]["name"] for x in labels)}

    macs = panel({label: 100 * summary["overall"][label]["macs_share"] for label in labels})
    if not timed:
        return [macs]
    return [macs, panel({x: sum(latencies[task, x] for task in tasks) / len(tasks) for x in labels})]


def plot(summary: Mapping[str, Any], latencies: Latencies, path: Path) -> None:
    """Draw the curves into a PNG file; nothing if no cell can be put in relation to dense.

    Raises:
        SparseSightError: without matplotlib; it says how to install it.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter
    except ImportError:
        raise SparseSightError("plots need matplotlib: pip install 'sparsesight[plots]'") from None
    if not summary["overall"]:
        return
    panels = curves(summary, latencies)
    figure = Figure(figsize=(7.5 * len(panels), 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, panel, label in zip(
        axes, panels, ("prefill FLOPs, % of dense", "prefill, ms per sample"), strict=False
    ):
        names = [name for name in panel if name != DENSE]
        if DENSE in panel:
            axis.axhline(panel[DENSE]["y"][0], color="#888888", linewidth=1, linestyle=":", label=DENSE)
        for number, name in enumerate(names):
            curve = panel[name]
            error = [
                [max(y - low, 0) for y, low in zip(curve["y"], curve["low"], strict=True)],
                [max(high - y, 0) for y, high in zip(curve["y"], curve["high"], strict=True)],
            ]
            turn = number // len(LINES)
            style = {
                "color": web(LINES[number % len(LINES)]),
                "marker": MARKERS[(number + 3 * turn) % len(MARKERS)],
                "linestyle": ("-", "--", "-.")[turn % 3],
            }
            # Methods at equal cost stand side by side, or their intervals would hide each other.
            aside = 1 + SPREAD * (number - (len(names) - 1) / 2)
            x = [value * aside for value in curve["x"]]
            axis.errorbar(
                x, curve["y"], yerr=error, label=name, markersize=5, linewidth=1, elinewidth=0.7, **style
            )
        axis.set_xscale("log")
        for which in (axis.xaxis.set_major_formatter, axis.xaxis.set_minor_formatter):
            which(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_xlabel(label)
        axis.grid(axis="y", color="#dddddd")
        axis.spines[["top", "right"]].set_visible(False)
    tasks = ", ".join(summary["tasks"]) if len(summary["tasks"]) <= 4 else f"{len(summary['tasks'])} tasks"
    axes[0].set_ylabel(f"score, % of dense ({tasks})")
    lines, labels = axes[0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside right center", frameon=False, fontsize=9)
    figure.suptitle(title(summary), fontsize=11)
    data = BytesIO()
    figure.savefig(data, format="png", dpi=130)
    replace_file(path, data.getvalue())
