"""The page: the question on one side, beside it the tabs that answer, compare and watch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from .. import bundled
from . import asked
from .components import Shared
from .engine import Engine
from .results import KINDS, about, methods_to_choose
from .tabs import Choices, ask_tab, compare_tab, watch_tab
from .uploads import Uploads
from .wiring import AT_ONCE, PRIVATE, Page, outdate, sentences

LIVE = 1.0  # seconds that a run may take to be started at every key stroke


def build(engine: Engine, choices: Choices, uploads: Uploads) -> gr.Blocks:
    """The page of a model; :func:`.server.serving` launches it."""
    with Page(title="SparseSight", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        page.uploads = uploads
        gr.Markdown(_header(engine.loaded.name, choices.visual))
        with gr.Row(elem_id="ss-main"):
            with gr.Column(scale=2, min_width=300):
                shared = Shared(engine, uploads, *_inputs(choices, uploads), gr.State(None))
            with gr.Column(scale=5, min_width=320), gr.Tabs():
                with gr.Tab("Ask", id="ask"):
                    ask_tab(shared)
                with gr.Tab("Compare", id="compare"):
                    compare_tab(shared, choices)
                with gr.Tab("Change the question", id="watch", elem_id="ss-watch-tab"):
                    watch_tab(shared, live=choices.seconds <= LIVE)
    return page


def _header(model: str, visual: int) -> str:
    about = f"Model: `{model.replace('`', '')}`, {visual:,} visual tokens per picture."
    if model in bundled.NAMES:
        about += (
            " It knows only scenes of coloured shapes and questions like the examples: for photographs, "
            "start the demo with another model."
        )
    return (
        "# SparseSight\n\nWhich patches of a picture does the question keep, and what is saved by dropping the others?"
        f"\n\n{about}"
    )


def _inputs(choices: Choices, uploads: Uploads) -> tuple[Any, Any, Any, Any]:
    """The components for a picture, a question, a method and a budget."""
    first = bundled.default_picture()
    picture = gr.Image(
        value=str(first),
        label="Picture",
        sources=["upload", "clipboard"],
        type="filepath",
        height=300,
        buttons=["fullscreen"],
        elem_id="ss-picture",
        alt_text="the picture that is asked about",
    )
    scenes = gr.Dataset(
        components=["image"],
        samples=[[str(path)] for path in bundled.pictures()],
        type="index",
        layout="gallery",
        label="Example pictures",
        elem_id="ss-scenes",
    )
    question = gr.Textbox(
        _suggestions(first)[0][0],
        label="Question",
        max_lines=4,
        max_length=asked.MAX_QUESTION,
        elem_id="ss-question",
    )
    suggested = gr.Dataset(
        components=["textbox"],
        samples=_suggestions(first),
        type="values",
        layout="gallery",
        label="Questions about the example",
        elem_id="ss-suggested",
    )
    method = gr.Dropdown(
        methods_to_choose(), value=choices.method, label="Method", info=KINDS, elem_id="ss-method"
    )
    described = gr.HTML(about(choices.method), elem_id="ss-about", elem_classes="ss-about")
    method.change(sentences()(about), method, described, **AT_ONCE)
    retain = gr.Slider(
        1,
        choices.visual,
        value=choices.retain,
        step=1,
        label="Visual tokens to keep",
        info=f"On average over the layers, of {choices.visual:,}.",
        buttons=[],
        elem_id="ss-retain",
    )

    @sentences()
    def look(upload: Any) -> None:
        if upload is not None:
            uploads.check(uploads.path_of(upload))

    @sentences()
    def choose(number: Any) -> tuple[str, str, Any]:
        pictures = bundled.pictures()
        path = pictures[min(max(int(number), 0), len(pictures) - 1)]
        offered = _suggestions(path)
        return str(path), offered[0][0], gr.Dataset(samples=offered)

    # Both write the question: one after the other, so that the last click wins.
    in_order: dict[str, Any] = {
        **PRIVATE,
        "concurrency_id": "choice",
        "concurrency_limit": 1,
        "trigger_mode": "multiple",
    }
    scenes.click(choose, scenes, [picture, question, suggested], **in_order)
    suggested.click(lambda sample: sample[0], suggested, question, **{**in_order, "preprocess": True})
    seen = picture.upload(look, picture, None, **AT_ONCE)
    seen.failure(lambda: None, None, picture, **AT_ONCE)
    outdate([picture, question], "ask", "compare", "watch")
    outdate([method, retain], "ask", "watch")  # Compare has its own
    return picture, question, method, retain


def _suggestions(picture: Path) -> list[list[str]]:
    """Questions of different kinds about a bundled picture."""
    asked = {x["kind"]: x["question"] for x in bundled.picture_questions()[picture.name]}
    return [[asked[kind]] for kind in ("color", "letter", "neighbor", "compare")]
