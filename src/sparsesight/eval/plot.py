"""Plots the score, as a percentage of the dense score, against the cost of the prefill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ..errors import SparseSightError
from ..files import replace_file
from ..viz.colours import LINES, web
from .sweep import DENSE
from .tables import Latencies, title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ASIDE = 3.0  # points between markers of methods at equal cost, or their intervals would hide each other
LEAST_X, LEAST_Y = 2.0, 10.0  # least ratio of the ends of the x axis, least % of dense that the y axis spans
GAP = 0.05  # between the labels of lines, of the height of a panel
FONT = 13  # read at half the width as well
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
        SparseSightError: as :func:`draw`.
    """
    figure = draw(summary, latencies) if summary["overall"] else None
    if figure is not None:
        data = BytesIO()
        figure.savefig(data, format="png", dpi=130)
        replace_file(path, data.getvalue())


def draw(summary: Mapping[str, Any], latencies: Latencies) -> Figure:
    """The curves as a figure: a panel for FLOPs, and one for time where every cell was timed.

    Raises:
        SparseSightError: without matplotlib; it says how to install it.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter
    except ImportError:
        raise SparseSightError("plots need matplotlib: pip install 'sparsesight[plots]'") from None
    panels = curves(summary, latencies)
    figure = Figure(figsize=(7.5 * len(panels), 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, panel, label in zip(
        axes, panels, ("prefill FLOPs, % of dense", "prefill, ms per sample"), strict=False
    ):
        _draw(figure, axis, panel)
        for which in (axis.xaxis.set_major_formatter, axis.xaxis.set_minor_formatter):
            which(FuncFormatter(lambda value, _: f"{value:g}"))
        spread = "" if len(panel) < 3 else "\n(points at one cost are drawn side by side)"
        axis.set_xlabel(f"{label}{spread}", fontsize=FONT)
    axes[0].set_ylim(_ends([curve for panel in panels for curve in panel.values()]))
    for axis in axes:
        name_lines(axis)
    tasks = ", ".join(summary["tasks"]) if len(summary["tasks"]) <= 4 else f"{len(summary['tasks'])} tasks"
    axes[0].set_ylabel(f"score, % of dense ({tasks})", fontsize=FONT)
    figure.suptitle(title(summary), fontsize=FONT)
    return figure


def _draw(figure: Any, axis: Any, panel: Mapping[str, Mapping[str, list[float]]]) -> None:
    """The dense model as a line, and each method with its intervals, at its true cost but for some points aside."""
    if DENSE in panel:
        axis.axhline(panel[DENSE]["y"][0], color="#666666", linewidth=1.5, linestyle=":", label=DENSE)
    names = [name for name in panel if name != DENSE]
    for number, name in enumerate(names):
        curve, turn = panel[name], number // len(LINES)
        error = [
            [max(y - low, 0) for y, low in zip(curve["y"], curve["low"], strict=True)],
            [max(high - y, 0) for y, high in zip(curve["y"], curve["high"], strict=True)],
        ]
        axis.errorbar(
            curve["x"],
            curve["y"],
            yerr=error,
            label=name,
            markersize=6,
            linewidth=1.5,
            elinewidth=1,
            color=web(LINES[number % len(LINES)]),
            marker=MARKERS[(number + 3 * turn) % len(MARKERS)],
            linestyle=("-", "--", "-.")[turn % 3],
            transform=aside(figure, axis, number, len(names)),
        )
    axis.set_xscale("log")
    # Shifted lines do not count for the limits that matplotlib finds.
    costs = [x for name in names for x in panel[name]["x"]] or [100.0]
    least, most = min(costs) / 1.15, max(costs) * 1.15
    more = max(LEAST_X / (most / least), 1) ** 0.5  # or a difference of some per cent would fill the panel
    axis.set_xlim(least / more, most * more)
    axis.tick_params(which="both", labelsize=FONT - 2)
    axis.grid(axis="y", color="#dddddd")
    axis.spines[["top", "right"]].set_visible(False)


def aside(figure: Any, axis: Any, number: int, lines: int) -> Any:
    """The transform that moves line ``number`` of ``lines`` some points to the side, whatever the scale of x."""
    from matplotlib.transforms import ScaledTranslation

    points = ASIDE * (number - (lines - 1) / 2)
    return axis.transData + ScaledTranslation(points / 72, 0, figure.dpi_scale_trans)


def _ends(curves: Sequence[Mapping[str, list[float]]]) -> tuple[float, float]:
    """The ends of the y axis: all intervals, and at least ``LEAST_Y``."""
    low, high = min(min(x["low"]) for x in curves), max(max(x["high"]) for x in curves)
    more = max(LEAST_Y - (high - low), 0.1 * (high - low)) / 2
    return low - more, high + more


def name_lines(axis: Any, inside: bool = False) -> None:
    """Write the name of each line at the height of its last point, names apart from each other, with its marker.

    Args:
        axis: with labelled lines.
        inside: at the left edge of the panel rather than to the right of it, for lines that end on the left.
    """
    from matplotlib.lines import Line2D

    to_panel = axis.transData + axis.transAxes.inverted()
    ends = []
    for line, name in zip(*axis.get_legend_handles_labels(), strict=True):
        drawn = line[0] if isinstance(line, tuple) else line
        ends.append((to_panel.transform((axis.get_xlim()[1], drawn.get_ydata()[-1]))[1], name, drawn))
    ends.sort(key=lambda end: end[0])
    places = apart([height for height, _, _ in ends], GAP)
    over = {"facecolor": "#ffffff", "edgecolor": "none", "pad": 1} if inside else None
    right = {"transform": axis.transAxes, "clip_on": False, "linewidth": 0.8}
    for (height, name, drawn), y in zip(ends, places, strict=True):
        color = drawn.get_color()
        if not inside:  # from the line's height to the name, which may have made way
            axis.figure.add_artist(Line2D([1.0, 1.02], [height, y], color=color, alpha=0.6, **right))
            axis.figure.add_artist(
                Line2D([1.035], [y], color=color, marker=drawn.get_marker(), markersize=5, **right)
            )
        place = 0.01 if inside else 1.055
        axis.annotate(
            name, (place, y), xycoords="axes fraction", va="center", color=color, fontsize=FONT - 1, bbox=over
        )


def apart(heights: Sequence[float], gap: float) -> list[float]:
    """Ascending heights, moved within [0, 1] by as little as they need to be ``gap`` apart; less if they are many.

    With the gaps taken off it is isotonic regression: neighbours that are too near share the mean of their heights.
    """
    gap = min(gap, 1 / max(len(heights) - 1, 1))
    pools: list[list[float]] = []
    for number, height in enumerate(heights):
        pools.append([height - number * gap])
        while len(pools) > 1 and fmean(pools[-2]) >= fmean(pools[-1]):
            last = pools.pop()
            pools[-1] += last
    most = 1 - gap * (len(heights) - 1)
    means = [min(max(fmean(pool), 0), most) for pool in pools for _ in pool]
    return [mean + number * gap for number, mean in enumerate(means)]
