"""How many visual tokens enter each layer, as a staircase."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import SparseSightError
from ..report import Report
from .colours import LINES, web
from .look import Look

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Counted = Look | Report
STYLES = ("-", "--", "-.", ":")


def staircase(looks: Counted | Mapping[str, Counted], *, width: float = 6.4, height: float = 3.2) -> Figure:
    """Visual tokens entering each layer, of one run or of several beside the dense model.

    Args:
        looks: a look or a report (of its first sample), or several by name.
        width, height: inches.

    Returns:
        A figure of matplotlib: ``figure.savefig("stairs.svg")``.

    Raises:
        SparseSightError: without matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise SparseSightError("staircase: matplotlib is missing; pip install 'sparsesight[plots]'") from None
    named = looks if isinstance(looks, Mapping) else {"": looks}
    if not named:
        raise SparseSightError("looks: give one look or more, by name")
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    counts = {name: _counts(look) for name, look in named.items()}
    longest = max(len(steps) for steps in counts.values())
    dense = max(steps[0] for steps in counts.values())
    axes.plot([-0.5, longest - 0.5], [dense, dense], color="#666666", linewidth=1, linestyle=(0, (1, 2)))
    axes.annotate(
        "dense", (longest - 0.5, dense), (0, 3), textcoords="offset points", ha="right", color="#666666"
    )
    single = len(counts) == 1
    for number, (name, steps) in enumerate(counts.items()):
        colour, style = web(LINES[number % len(LINES)]), STYLES[number // len(LINES) % len(STYLES)]
        edges = [layer - 0.5 for layer in range(len(steps) + 1)]
        # Where lines lie on one another, those below are broader.
        broad = 2.2 + 1.6 * (len(counts) - 1 - number)
        axes.stairs(
            steps, edges, baseline=None, color=colour, linewidth=broad, linestyle=style, label=name or None
        )
        if single:
            axes.stairs(steps, edges, color=colour, fill=True, alpha=0.15)
            _count(axes, steps)
    axes.set(
        xlim=(-0.5, longest - 0.5),
        ylim=(0, dense * 1.18),
        xlabel="decoder layer",
        ylabel="visual tokens entering",
    )
    axes.locator_params(axis="x", integer=True)
    axes.spines[["top", "right"]].set_visible(False)
    if not single:
        axes.legend(frameon=False, fontsize="small")
    return figure


def svg(figure: Figure) -> str:
    """The figure as an <svg> element; its letters are text, so that they can be read and searched."""
    import matplotlib

    out = io.StringIO()
    # A fixed salt and no date: the same figure is the same text.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "sparsesight"}):
        figure.savefig(out, format="svg", metadata={"Date": None}, transparent=True)
    text = out.getvalue()
    return text[text.index("<svg") :]


def _counts(look: Counted) -> tuple[int, ...]:
    return look.samples[0].visual_per_layer if isinstance(look, Report) else look.per_layer


def _count(axes: Any, steps: tuple[int, ...]) -> None:
    """Write the number at each step."""
    begin = 0
    for layer in range(1, len(steps) + 1):
        if layer == len(steps) or steps[layer] != steps[begin]:
            if begin or steps[0] != max(steps):
                axes.annotate(
                    str(steps[begin]),
                    ((begin + layer - 1) / 2, steps[begin]),
                    (0, 3),
                    textcoords="offset points",
                    ha="center",
                )
            begin = layer
