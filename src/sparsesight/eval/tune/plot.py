"""Draws what every setting costs and how many answers it keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...files import replace_file
from ...viz.colours import LINES, web
from ..plot import MARKERS, name_lines
from .result import Promise

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE, DPI = (8.0, 4.6), 120
FREE = 0.22  # of the width of the points, to their left: for the names of lines


def plot(rows: Sequence[Mapping[str, Any]], kinds: Mapping[str, str], promise: Promise, path: Path) -> None:
    """Write :func:`draw`'s figure as PNG."""
    drawn = BytesIO()
    draw(rows, kinds, promise).savefig(drawn, format="png", dpi=DPI, metadata={"Software": None})
    replace_file(path, drawn.getvalue())


def draw(rows: Sequence[Mapping[str, Any]], kinds: Mapping[str, str], promise: Promise) -> Figure:
    """The figure.

    Args:
        rows: of :func:`~.result.rows_of`.
        kinds: kind of each setting, by its name; one colour each.
        promise: its line.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")
    axis: Any = figure.add_subplot()
    shown = [row for row in rows if row["kept"] is not None and row["cost_share"] is not None]
    for number, kind in enumerate(dict.fromkeys(kinds.values())):
        mine = [row for row in shown if kinds[row["setting"]] == kind]
        if mine:
            color, marker = web(LINES[number % len(LINES)]), MARKERS[number % len(MARKERS)]
            x, y = ([row[key] * 100 for row in mine] for key in ("cost_share", "kept"))
            down = [100 * (row["kept"] - row["bound"]) for row in mine]
            label = mine[0]["setting"].partition("(")[0]  # cheapest last: there the line is named
            axis.errorbar(
                x,
                y,
                yerr=[down, [0] * len(mine)],
                label=label,
                color=color,
                marker=marker,
                capsize=2,
                elinewidth=1,
            )
    axis.axhline(100 * promise.keep, color="#666666", linestyle=":", linewidth=1.5)
    axis.margins(x=0.03)
    low, high = axis.get_xlim()
    axis.set_xlim(low - FREE * (high - low), high)
    place = (1, 100 * promise.keep)
    axis.annotate(
        f"--keep {promise.keep:g}",
        place,
        xycoords=("axes fraction", "data"),
        ha="right",
        va="bottom",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},  # bars may pass behind it
    )
    for row in shown:
        if row["chosen"]:
            place = (100 * row["cost_share"], 100 * row["kept"])
            axis.plot(*place, "o", markersize=14, markerfacecolor="none", markeredgecolor="#000000")
            axis.annotate("chosen", place, xytext=(9, -14), textcoords="offset points")
    what = "FLOPs" if promise.by == "flops" else "time to the first token"
    axis.set_xlabel(f"prefill {what}, % of dense" if promise.by == "flops" else f"{what}, % of dense")
    axis.set_ylabel(f"answers kept, %, and bound at {promise.confidence:.0%}")
    axis.grid(axis="y", color="#dddddd")
    axis.spines[["top", "right"]].set_visible(False)
    name_lines(axis, inside=True)
    return figure
