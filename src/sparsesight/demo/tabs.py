"""The tabs of the page: ask, compare, and watch the kept patches move with the question."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from ..methods import METHODS
from . import cards, runs
from .asked import MAX_QUESTION, Asked, check_grid
from .engine import Engine
from .pictures import Panel
from .running import SessionRegistry
from .uploads import Uploads
from .wiring import AT_ONCE, connect, sentences

COMPARED = ["sparsevlm+", "fastv", "divprune", "random"]
KEPT, SCORES = "kept", "scores"
TURN = "Waiting for a turn: the model answers one question at a time."


@dataclass(frozen=True)
class Choices:
    """What the page begins with.

    Attributes:
        method, retain: of the sparse answer.
        visual: how many visual tokens there are to choose from.
        seconds: how long the model takes for one token of an answer.
    """

    method: str
    retain: int
    visual: int
    seconds: float


@dataclass(frozen=True)
class Inputs:
    """The components that all tabs read."""

    picture: Any
    question: Any
    method: Any
    retain: Any


def _buttons(desk: SessionRegistry, name: str, run: str) -> Any:
    """A button that begins, beside one that stops."""

    def stop(request: gr.Request) -> None:
        desk.stop(str(request.session_hash))

    with gr.Row(elem_classes="ss-buttons"):
        begin = gr.Button(run, variant="primary", elem_id=f"ss-{name}-run", min_width=160, scale=0)
        end = gr.Button("Stop", elem_id=f"ss-{name}-stop", min_width=100, scale=0)
    end.click(stop, None, None, **AT_ONCE)
    return begin


def ask_tab(engine: Engine, desk: SessionRegistry, uploads: Uploads, inputs: Inputs) -> None:
    begin = _buttons(desk, "ask", "Ask")
    status = gr.HTML(elem_id="ss-ask-status")
    with gr.Row(elem_id="ss-answers"):
        dense = gr.HTML(
            cards.answer("Dense", "all visual tokens", None, ""), elem_id="ss-dense", min_width=150
        )
        sparse = gr.HTML(cards.answer("Sparse", "few of them", None, ""), elem_id="ss-sparse", min_width=150)
    seen = gr.State([])
    with gr.Row():
        with gr.Column(visible=False, min_width=300) as kept:
            with gr.Group():
                stage = gr.Slider(0, 1, value=1, step=1, label="Stage", buttons=[], elem_id="ss-stage")
                layer = gr.Radio(
                    [("What was kept", KEPT), ("Scores", SCORES)],
                    value=KEPT,
                    show_label=False,
                    elem_id="ss-layer",
                )
                overlay = gr.Image(
                    show_label=False,
                    interactive=False,
                    format="png",
                    buttons=["download", "fullscreen"],
                    elem_id="ss-overlay",
                    alt_text="the kept patches as they are, the dropped ones pale; or the scores of all",
                )
            caption = gr.HTML(elem_id="ss-caption")
        with gr.Column(min_width=300):
            words = gr.HTML(elem_id="ss-words")
            costs = gr.HTML(elem_id="ss-costs")

    def check(upload: Any, question: Any, method: Any, retain: Any, request: gr.Request) -> tuple[str, int]:
        Asked(uploads, uploads.path_of(upload), question, method, retain).check()
        return cards.status(TURN), desk.open(str(request.session_hash))

    def run(
        upload: Any, question: Any, method: Any, retain: Any, number: Any, request: gr.Request
    ) -> Iterator[Any]:
        stop = desk.stop_of(str(request.session_hash), number)
        for view in runs.ask(engine, Asked(uploads, uploads.path_of(upload), question, method, retain), stop):
            shown: tuple[Any, ...] = (gr.skip(),) * 5
            if view.panels is not None:
                last = max(len(view.panels) - 1, 0)
                text, picture = _shown(view.panels, last, KEPT)
                shown = (
                    view.panels,
                    gr.Column(visible=True),
                    gr.Slider(maximum=max(last, 1), value=last, visible=last > 0),
                    text or _caption(view.no_panels),
                    gr.Image(picture, visible=last > 0),
                )
            yield view.status, view.dense, view.sparse, view.costs, view.words, *shown, KEPT

    def show(made: list[Panel], number: Any, what: Any) -> tuple[str, Any]:
        return _shown(made, min(max(int(number), 0), len(made) - 1), what)

    connect(
        [begin.click, inputs.question.submit],
        check,
        run,
        [inputs.picture, inputs.question, inputs.method, inputs.retain],
        [status, dense, sparse, costs, words, seen, kept, stage, caption, overlay, layer],
        status,
    )
    for moved in (stage.input, layer.input):
        moved(
            sentences(show), [seen, stage, layer], [caption, overlay], trigger_mode="always_last", **AT_ONCE
        )


def _caption(text: str) -> str:
    return f'<p class="ss-caption">{escape(text)}</p>'


def _shown(made: list[Panel], number: int, what: Any) -> tuple[str, Any]:
    """Caption with its key, and picture, of a stage; before the first there are no scores."""
    if not made:
        return "", None
    panel = made[number]
    scores = panel.scores if what == SCORES else None
    marks = panel.marks if scores is None else panel.score_marks
    return _caption(panel.caption) + cards.key(marks), panel.kept if scores is None else scores


def compare_tab(
    engine: Engine, desk: SessionRegistry, uploads: Uploads, inputs: Inputs, choices: Choices
) -> None:
    budgets = [x for x in (288, 192, 128, 64, 32) if x < choices.visual] or [max(choices.visual // 2, 1)]
    gr.HTML(
        '<p class="ss-lead">The same question, answered by every method at every budget. A budget costs the same '
        "prefill arithmetic for all: what SparseVLM+ needs for so many visual tokens a layer.</p>"
    )
    methods = gr.CheckboxGroup(list(METHODS), value=COMPARED, label="Methods", elem_id="ss-methods")
    chosen = gr.CheckboxGroup(
        [(str(x), x) for x in budgets],
        value=[x for x in budgets if x in (192, 64)] or budgets[:1],
        label="Budgets, in visual tokens",
        elem_id="ss-budgets",
    )
    begin = _buttons(desk, "compare", "Compare")
    status = gr.HTML(elem_id="ss-compare-status")
    table = gr.HTML(elem_id="ss-grid")

    def check(upload: Any, question: Any, names: Any, counts: Any, request: gr.Request) -> tuple[str, int]:
        Asked(uploads, uploads.path_of(upload), question).check()
        check_grid(names, counts)
        return cards.status(TURN), desk.open(str(request.session_hash))

    def run(
        upload: Any, question: Any, names: Any, counts: Any, number: Any, request: gr.Request
    ) -> Iterator[Any]:
        stop = desk.stop_of(str(request.session_hash), number)
        for grid, line in runs.compare(
            engine, Asked(uploads, uploads.path_of(upload), question), names, counts, stop
        ):
            yield gr.skip() if grid is None else grid, line

    connect(
        [begin.click], check, run, [inputs.picture, inputs.question, methods, chosen], [table, status], status
    )


def watch_tab(engine: Engine, desk: SessionRegistry, uploads: Uploads, inputs: Inputs, live: bool) -> None:
    how = "as you type" if live else "when you press Enter"
    gr.HTML(
        f'<p class="ss-lead">Ask something else of the same picture, and see {how} which patches are kept instead.</p>'
    )
    box = gr.Textbox(
        label="Another question",
        placeholder="Type a question",
        max_lines=4,
        max_length=MAX_QUESTION,
        elem_id="ss-watch",
    )
    begin = _buttons(desk, "watch", "Look")
    status = gr.HTML(elem_id="ss-watch-status")
    shown = gr.HTML(elem_id="ss-pair")
    before = gr.State(None)

    def both(upload: Any, main: Any, other: Any, method: Any, retain: Any) -> tuple[Asked, Asked]:
        path = uploads.path_of(upload)
        return (
            Asked(uploads, path, main, method, retain),
            Asked(uploads, path, other, method, retain),
        )

    def check(
        upload: Any, main: Any, other: Any, method: Any, retain: Any, seen: Any, request: gr.Request
    ) -> tuple[str, int]:
        for asked in both(upload, main, other, method, retain):
            asked.check(typing=True)
        return "", desk.open(str(request.session_hash))

    def run(
        upload: Any,
        main: Any,
        other: Any,
        method: Any,
        retain: Any,
        seen: Any,
        number: Any,
        request: gr.Request,
    ) -> Iterator[Any]:
        stop = desk.stop_of(str(request.session_hash), number)
        yield from runs.watch(engine, *both(upload, main, other, method, retain), seen, stop)

    connect(
        [begin.click, box.submit, *([box.input] if live else [])],
        check,
        run,
        [inputs.picture, inputs.question, box, inputs.method, inputs.retain, before],
        [shown, before, status],
        status,
    )
