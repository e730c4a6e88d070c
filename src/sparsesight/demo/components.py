"""Components that several tabs of the page have: the buttons of a run, and pictures with a legend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import gradio as gr

from .engine import Engine
from .results import key
from .runs import Figure
from .uploads import Uploads
from .wiring import AT_ONCE, SHOW, Turn

RESULT = "ss-result"  # the class of what a run shows


@dataclass(frozen=True)
class Shared:
    """What all tabs use: the model, the uploaded pictures, and the components for what is asked."""

    engine: Engine
    uploads: Uploads
    picture: Any
    question: Any
    method: Any
    retain: Any
    turn: Any


def run_buttons(shared: Shared, name: str, run: str, scroll: bool = True) -> Any:
    """A button that starts a run, beside one that stops it.

    Args:
        scroll: whether a phone scrolls to the status line.
    """

    def stop(turn: Turn | None) -> None:
        if turn is not None:
            turn.stop.set()

    with gr.Row(elem_classes="ss-buttons"):
        begin = gr.Button(run, variant="primary", elem_id=f"ss-{name}-run", min_width=160, scale=0)
        end = gr.Button("Stop", elem_id=f"ss-{name}-stop", min_width=100, scale=0)
    end.click(stop, shared.turn, None, **AT_ONCE)
    if scroll:
        begin.click(None, None, None, js=SHOW % f"ss-{name}-status", **AT_ONCE)
    return begin


def gallery_with_legend(name: str, columns: int) -> tuple[Any, Any]:
    """Pictures with captions, and their legend below."""
    gallery = gr.Gallery(
        show_label=False,
        interactive=False,
        columns=columns,
        object_fit="contain",
        height="auto",
        buttons=["download", "fullscreen"],
        visible=False,
        elem_id=f"ss-{name}",
        elem_classes=RESULT,
    )
    return gallery, gr.HTML(elem_id=f"ss-{name}-key", elem_classes=RESULT)


def show_figures(gallery: Any, legend: Any, figures: Sequence[Figure]) -> dict[Any, Any]:
    """The changes that show figures in the components of :func:`gallery_with_legend`."""
    signs = set(chain.from_iterable(figure.signs for figure in figures))
    pictures = [(figure.image, figure.caption) for figure in figures]
    return {gallery: gr.Gallery(pictures, visible=bool(pictures)), legend: key(signs)}
