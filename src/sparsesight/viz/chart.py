"""Plots the number of visual tokens that enter each layer, as a staircase."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import SparseSightError
from ..report import Report
from .colours import LINES, web
from .record import Look, by_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Counted = Look | Report
MARKERS = ("", "o", "s", "^")  # one more each time that the colours repeat
BROAD, DASH = 2.2, 2.0  # line width, and dash length as a multiple of it
Piece = tuple[tuple[float, ...], tuple[float, ...], list[int]]


def staircase(looks: Counted | Mapping[str, Counted], *, width: float = 6.4, height: float = 3.2) -> Figure:
    """Visual tokens entering each layer, of one run or of several, compared with the dense model.

    Args:
        looks: a look or a report (its first sample), or several by name.
        width, height: inches.

    Returns:
        A matplotlib figure: ``figure.savefig("stairs.svg")``.

    Raises:
        SparseSightError: matplotlib is missing, or there are no looks.
    """
    figure = new_figure(width, height)
    named = by_name(looks, (Look, Report), single=True)
    stairs(
        figure.add_subplot(),
        {name: _counts(look) for name, look in named.items()},
        max(map(_all, named.values())),
    )
    if len(named) > 1:
        figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    return figure


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, ``width`` by ``height`` inches, without a window.

    Raises:
        SparseSightError: matplotlib is missing.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise SparseSightError(
            "this drawing needs matplotlib, which is missing: pip install 'sparsesight[plots]'"
        ) from None
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def stairs(axes: Axes, counts: Mapping[str, tuple[int, ...]], dense: int) -> None:
    """Draw visual tokens per layer, by name, below the number ``dense`` that enters every layer of the dense model."""
    longest = max(len(steps) for steps in counts.values())
    axes.plot([-0.5, longest - 0.5], [dense, dense], color="#666666", linewidth=1, linestyle=(0, (1, 2)))
    axes.annotate(
        "dense", (longest - 0.5, dense), (0, 3), textcoords="offset points", ha="right", color="#666666"
    )
    single = len(counts) == 1
    styles: list[dict[str, Any]] = [
        {"color": web(LINES[i % len(LINES)]), "marker": MARKERS[i // len(LINES) % len(MARKERS)]}
        for i in range(len(counts))
    ]
    for (name, steps), style in zip(counts.items(), styles, strict=True):
        axes.plot([], [], linewidth=BROAD, markersize=4, label=name or None, **style)
        if single:
            edges = [layer - 0.5 for layer in range(len(steps) + 1)]
            axes.stairs(steps, edges, color=style["color"], fill=True, alpha=0.15)
            _count(axes, steps, dense)
    for x, y, sharing in _pieces(list(counts.values())):
        for turn, number in enumerate(sharing):
            # Where lines lie on one another, they take turns.
            dashes: Any = (-DASH * turn, (DASH, DASH * (len(sharing) - 1))) if len(sharing) > 1 else "-"
            axes.plot(
                x, y, color=styles[number]["color"], linewidth=BROAD, linestyle=dashes, dash_capstyle="butt"
            )
    for (layers, tokens), style in zip(((range(len(s)), s) for s in counts.values()), styles, strict=True):
        axes.plot(layers, tokens, linestyle="", markersize=4, **style)
    axes.set(
        xlim=(-0.5, longest - 0.5),
        ylim=(0, dense * 1.18),
        xlabel="decoder layer",
        ylabel="visual tokens entering",
    )
    axes.locator_params(axis="x", integer=True)
    axes.spines[["top", "right"]].set_visible(False)


def svg(figure: Figure) -> str:
    """The figure as an <svg> element with real text, which can be read and searched."""
    import matplotlib

    out = io.StringIO()
    # A fixed salt and no date: the same figure is the same text.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "sparsesight"}):
        figure.savefig(out, format="svg", metadata={"Date": None}, transparent=True)
    text = out.getvalue()
    return text[text.index("<svg") :]


def _counts(look: Counted) -> tuple[int, ...]:
    return look.samples[0].visual_per_layer if isinstance(look, Report) else look.per_layer


def _all(look: Counted) -> int:
    return look.samples[0].visual_tokens if isinstance(look, Report) else look.visual


def _pieces(runs: list[tuple[int, ...]]) -> list[Piece]:
    """The staircases in pieces, each with the runs that share it."""
    shared: dict[tuple[tuple[float, ...], tuple[float, ...]], list[int]] = {}
    for number, steps in enumerate(runs):
        for layer, tokens in enumerate(steps):
            shared.setdefault(((layer - 0.5, layer + 0.5), (tokens, tokens)), []).append(number)
            if layer and steps[layer - 1] != tokens:
                shared.setdefault(((layer - 0.5,) * 2, (steps[layer - 1], tokens)), []).append(number)
    pieces: list[Piece] = []
    for (x, y), sharing in shared.items():
        # Dashes go on through all layers of one step.
        at = next(
            (i for i, p in enumerate(pieces) if p[2] == sharing and p[1] == y and p[0][1] == x[0] != x[1]),
            None,
        )
        if at is None:
            pieces.append((x, y, sharing))
        else:
            pieces[at] = ((pieces[at][0][0], x[1]), y, sharing)
    return pieces


def _count(axes: Any, steps: tuple[int, ...], dense: int) -> None:
    """Write the number at each step."""
    begin = 0
    for layer in range(1, len(steps) + 1):
        if layer == len(steps) or steps[layer] != steps[begin]:
            if begin or steps[0] != dense:
                axes.annotate(
                    str(steps[begin]),
                    ((begin + layer - 1) / 2, steps[begin]),
                    (0, 3),
                    textcoords="offset points",
                    ha="center",
                )
            begin = layer
