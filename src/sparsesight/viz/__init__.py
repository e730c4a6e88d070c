"""Pictures of the tokens that a run kept.

    with sparsify(model, retain=64) as run:
        model.generate(**inputs)
    seen = viz.look(run, image, processor, inputs)
    viz.overlay(seen, stage=0).save("kept.png")

A :class:`Look` is plain data of one prefill; everything else draws it: :func:`overlay`, :func:`stages`,
:func:`heatmap` and :func:`raters` as Pillow pictures, :func:`side_by_side` several looks, :func:`animate` as a GIF,
:func:`staircase` and :func:`figure` with matplotlib, :func:`page` as HTML, :func:`text` for a terminal. In a notebook
a look shows itself.
"""

from ..core.record import StageRecord
from .chart import staircase
from .draw import animate, heatmap, overlay, raters, side_by_side, stages
from .figure import figure
from .html import page
from .look import Look, look
from .patch_grid import View
from .prompt_tokens import Word
from .record import Picture
from .text import text

__all__ = [
    "Look",
    "Picture",
    "StageRecord",
    "View",
    "Word",
    "animate",
    "figure",
    "heatmap",
    "look",
    "overlay",
    "page",
    "raters",
    "side_by_side",
    "stages",
    "staircase",
    "text",
]
