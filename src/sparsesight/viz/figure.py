"""One figure to show around: the question, the answers, what was saved, scores, kept patches, tokens per layer."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping
from io import BytesIO
from textwrap import fill
from typing import TYPE_CHECKING

from .chart import new_figure, stairs
from .colours import QUIET, web
from .draw import heatmap, overlay
from .draw import stages as stage_sheet
from .record import Look, checked

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

PANEL = 2.6  # inches
DPI = 150  # of pixels, where a file has any
PIXELS = 480  # of a panel's longer side
EDGE = 0.08  # inches above the question
LINE = 1.25  # height of a line of text, of its font size
WIDTH = 0.62  # of a character, of its font size; most are narrower
TITLE, ACROSS = 10, 32  # font size of a panel's title, and characters of its lines


def figure(look: Look, *, question: str = "", answers: Mapping[str, str] | None = None) -> Figure:
    """What a prefill kept of one sample, in a row of panels.

    The picture, the scores of the first stage, the patches that each stage kept, and the visual tokens entering each
    layer; above them the question, the answers and what was saved. The method says what its scores are, and which
    tokens it keeps.

    Args:
        look: from :func:`look`.
        question: as it was asked.
        answers: answers by name, such as ``{"dense": "K", "sparse": "K"}``.

    Returns:
        A matplotlib figure: ``figure.savefig("kept.svg")``, or ``.png``.

    Raises:
        SparseSightError: matplotlib is missing, or this is not a look.
    """
    report, stages = checked(look).report, look.stages
    panels = [("the picture", overlay(look, None, size=PIXELS, caption=False))]
    if stages and stages[0].told_apart:
        title = f"scores {stages[0].where}, yellow: high\n{fill(stages[0].meaning.scores, ACROSS)}"
        panels.append((title, heatmap(look, 0, size=PIXELS, caption=False)))
    for number, stage in enumerate(stages):
        note = "\nhatched: merged into the dots" if stage.merged.any() else ""
        title = f"{stage.where}\n{fill(stage.said, ACROSS)}{note}"
        panels.append((title, overlay(look, number, size=PIXELS, caption=False)))
    columns = len(panels) + 1
    tall = PANEL + 0.5 + max(title.count("\n") + 1 for title, _ in panels) * LINE * TITLE / 72
    each = ", ".join(f"{name}: {answer or '(nothing)'}" for name, answer in (answers or {}).items())
    lines = [(question, 16), (each, 14), (report.headline, 12)]
    across = 72 * PANEL * columns / WIDTH  # characters of a line, times their size
    said = [(fill(text, int(across / size)), size) for text, size in lines if text]
    head = sum(LINE * size * (text.count("\n") + 1) for text, size in said) / 72 + 0.2 + EDGE
    drawn = new_figure(PANEL * columns, tall + head)
    top, below = drawn.subfigures(2, 1, height_ratios=[head, tall], squeeze=False)[:, 0]
    _head(top, said, head)
    row = below.subplots(1, columns, width_ratios=[1] * (columns - 1) + [1.15])
    for axes, (title, picture) in zip(row, panels, strict=False):
        axes.imshow(picture)
        axes.set_axis_off()
        axes.set_title(title, fontsize=TITLE)
    _layers(row[-1], look)
    return drawn


def figure_file(look: Look, question: str, answers: Mapping[str, str], kind: str = "png") -> bytes:
    """:func:`figure` as the content of a file; without matplotlib, a PNG of the stages.

    Args:
        kind: a format that matplotlib writes, such as ``svg``.
    """
    drawn = BytesIO()
    if importlib.util.find_spec("matplotlib") is None:
        stage_sheet(look).save(drawn, format="png")
        return drawn.getvalue()
    made = figure(look, question=question, answers=answers)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # drawn as a box
        made.savefig(drawn, format=kind, dpi=DPI)
    return drawn.getvalue()


def _head(top: SubFigure, said: list[tuple[str, int]], height: float) -> None:
    y = 1.0 - EDGE / height
    for text, size in said:
        y -= 0.1 / height / len(said)
        top.text(0.01, y, text, fontsize=size, va="top", color=web(QUIET) if size == said[-1][1] else "black")
        y -= LINE * size * (text.count("\n") + 1) / 72 / height


def _layers(axes: Axes, look: Look) -> None:
    stairs(axes, {"": look.per_layer}, look.visual)
    axes.set_title("visual tokens entering", fontsize=TITLE)
    axes.set_ylabel("")
