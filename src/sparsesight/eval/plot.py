"""What a sweep says at a glance: how much of the dense score is left, against what the prefill costs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import SparseSightError
from .sweep import DENSE
from .tables import Latencies, title

# Okabe and Ito, "Color Universal Design", 2008: colour-blind readers tell them apart; yellow is too faint on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "v", "D", "P", "X")


def curves(summary: Mapping[str, Any], latencies: Latencies) -> list[dict[str, dict[str, list[float]]]]:
    """What is drawn: against FLOPs (% of dense), and where every cell was timed against milliseconds of the prefill.

    Returns:
        For each panel the curve of each method by name, ``{"x": ..., "y": ..., "low": ..., "high": ...}`` with y in %
        of dense, cheapest budget first. Of several tasks y is the mean, and milliseconds are the mean over tasks.
    """
    tasks = summary["tasks"]
    first = next(iter(tasks.values()))
    flops: dict[str, dict[str, list[float]]] = {}
    times: dict[str, dict[str, list[float]]] = {}
    labels = list(summary["overall"])
    timed = bool(labels) and all((task, label) in latencies for task in tasks for label in labels)
    for label in labels:
        overall, name = summary["overall"][label], first["cells"][label]["name"]
        point = overall["of_dense"]
        bounds = [point[key] if point[key] is not None else point["value"] for key in ("low", "high")]
        for panel, x in (
            (flops, 100 * overall["flops_share"]),
            (times, sum(latencies.get((task, label), 0.0) for task in tasks) / len(tasks)),
        ):
            curve = panel.setdefault(name, {"x": [], "y": [], "low": [], "high": []})
            for key, value in zip(curve, (x, point["value"], *bounds), strict=True):
                curve[key].append(value)
    for panel in (flops, times):
        for curve in panel.values():
            order = sorted(range(len(curve["x"])), key=curve["x"].__getitem__)
            for key in curve:
                curve[key] = [curve[key][i] for i in order]
    return [flops, times] if timed else [flops]


def plot(summary: Mapping[str, Any], latencies: Latencies, path: Path) -> None:
    """Draw the curves into a PNG file; nothing if no cell can be put in relation to dense.

    Raises:
        SparseSightError: without matplotlib; it says how to install it.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
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
        shown = 0
        for name, curve in panel.items():
            error = [
                [max(y - low, 0) for y, low in zip(curve["y"], curve["low"], strict=True)],
                [max(high - y, 0) for y, high in zip(curve["y"], curve["high"], strict=True)],
            ]
            if name == DENSE:
                axis.axhline(curve["y"][0], color="#888888", linewidth=1, linestyle=":")
                axis.plot(curve["x"], curve["y"], "*", color="#888888", markersize=12, label=name)
                continue
            style = {
                "color": COLORS[shown % len(COLORS)],
                "marker": MARKERS[shown % len(MARKERS)],
                "linestyle": ("-", "--", "-.")[shown // len(COLORS) % 3],
            }
            axis.errorbar(curve["x"], curve["y"], yerr=error, label=name, capsize=2, elinewidth=0.8, **style)
            shown += 1
        axis.set_xlabel(label)
        axis.grid(axis="y", color="#dddddd")
        axis.spines[["top", "right"]].set_visible(False)
    tasks = ", ".join(summary["tasks"]) if len(summary["tasks"]) <= 4 else f"{len(summary['tasks'])} tasks"
    axes[0].set_ylabel(f"score, % of dense ({tasks})")
    axes[0].legend(frameon=False, fontsize=9)
    figure.suptitle(title(summary), fontsize=11)
    figure.savefig(path, dpi=130)
