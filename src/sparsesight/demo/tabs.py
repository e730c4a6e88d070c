"""The tabs of the page: ask, compare, and watch the kept patches move with the question."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from threading import Event
from typing import Any

import gradio as gr

from ..method_names import DEFAULT
from ..methods import GROUPS
from . import runs
from .asked import MAX_QUESTION, Asked, check_grid
from .components import RESULT, Shared, gallery_with_legend, run_buttons, show_figures
from .pictures import Panel
from .results import (
    COMPARED_COSTS,
    EXPLAINED,
    JUDGED,
    about_all,
    key,
    methods_chosen,
    names_of,
    scale,
    table,
)
from .wiring import AT_ONCE, FOLLOW, SHOW, connect, outdate, sentences

COMPARED = [DEFAULT, "cdpruner", "sparsevlm+", "random"]
KEPT, SCORES = "kept", "scores"


@dataclass(frozen=True)
class Choices:
    """The page's initial values.

    Attributes:
        method, retain: of the sparse answer.
        visual: how many visual tokens there are to choose from.
        seconds: how long the model takes for one token of an answer.
    """

    method: str
    retain: int
    visual: int
    seconds: float


def ask_tab(shared: Shared) -> None:
    begin = run_buttons(shared, "ask", "Ask")
    status = gr.HTML(elem_id="ss-ask-status")
    with gr.Row(elem_id="ss-answers", elem_classes=RESULT):
        dense = gr.Textbox(
            label="Dense: all visual tokens", lines=2, interactive=False, elem_id="ss-dense", min_width=150
        )
        sparse = gr.Textbox(
            label="Sparse: few of them", lines=2, interactive=False, elem_id="ss-sparse", min_width=150
        )
    seen = gr.State([])
    with gr.Row():
        with gr.Column(visible=False, min_width=300, elem_classes=RESULT) as kept:
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
            share = gr.DownloadButton(
                "Download question, answers and stages as one figure", visible=False, elem_id="ss-share"
            )
        with gr.Column(visible=False, min_width=300, elem_classes=RESULT) as facts:
            words = gr.HighlightedText(
                label="Words that judged the patches",
                color_map={JUDGED: "#d97706"},
                show_inline_category=False,
                elem_id="ss-words",
            )
            costs = gr.Markdown(elem_id="ss-costs")
            with gr.Accordion("What these numbers mean", open=False):
                gr.Markdown(EXPLAINED)

    def check(*values: Any) -> tuple[Asked]:
        return (Asked.sent(shared.uploads, *values),)

    def offered(figure: bytes | None) -> Path | None:
        return None if figure is None else shared.uploads.add("sparsesight.png", figure)

    def run(asked: Asked, stop: Event) -> Iterator[dict[Any, Any]]:
        for view in runs.ask(shared.engine, asked, stop):
            done = view.panels is not None
            yield {
                status: view.status,
                dense: view.dense,
                sparse: gr.Textbox(view.sparse, label=f"Sparse: {asked.method}, retain {asked.retain:.0f}"),
                kept: gr.Column(visible=done),
                facts: gr.Column(visible=done),
                share: gr.DownloadButton(value=offered(view.figure), visible=view.figure is not None),
            }
            if view.figure is None and view.panels is not None:
                last = max(len(view.panels) - 1, 0)
                text, picture = _shown(view.panels, last, KEPT)
                yield {
                    costs: view.costs,
                    words: gr.HighlightedText([*view.words], visible=bool(view.words)),
                    seen: view.panels,
                    stage: gr.Slider(maximum=max(last, 1), value=last, visible=last > 0),
                    caption: text or _caption(view.no_panels),
                    overlay: gr.Image(picture, visible=last > 0),
                    layer: KEPT,
                }

    @sentences()
    def show(made: list[Panel], number: Any, what: Any) -> tuple[str, Any]:
        return _shown(made, min(max(int(number), 0), len(made) - 1), what)

    connect(
        [begin.click, shared.question.submit],
        check,
        run,
        [shared.picture, shared.question, shared.method, shared.retain],
        [status, dense, sparse, kept, facts, costs, words, seen, stage, caption, overlay, layer, share],
        status,
        shared.turn,
    )
    costs.change(None, None, None, js=SHOW % "ss-ask-status", **AT_ONCE)
    for moved in (stage.input, layer.input):
        moved(show, [seen, stage, layer], [caption, overlay], trigger_mode="always_last", **AT_ONCE)


def _caption(text: str) -> str:
    return f'<p class="ss-caption">{escape(text)}</p>'


def _shown(made: list[Panel], number: int, what: Any) -> tuple[str, Any]:
    """Caption with its legend, and picture, of a stage; before the first there are no scores."""
    if not made:
        return "", None
    panel = made[number]
    if what == SCORES and panel.scores is not None:
        return _caption(panel.caption) + scale(panel.scale), panel.scores
    return _caption(panel.caption) + key(panel.signs), panel.kept


def compare_tab(shared: Shared, choices: Choices) -> None:
    budgets = [x for x in (288, 192, 128, 64, 32) if x < choices.visual] or [max(choices.visual // 2, 1)]
    with gr.Accordion(methods_chosen(COMPARED), open=False, elem_id="ss-methods") as folded:
        with gr.Group():
            methods = [
                gr.CheckboxGroup(
                    names_of(group),
                    value=[name for name in COMPARED if name in names_of(group)],
                    label=group.capitalize(),
                    info=f"{said[0].upper()}{said[1:]}.",
                )
                for group, said in GROUPS.items()
            ]
        gr.HTML(about_all())
    chosen = gr.CheckboxGroup(
        [(str(x), x) for x in budgets],
        value=[x for x in budgets if x in (192, 64)] or budgets[:1],
        label="Budgets: the cost of SparseVLM+ with so many tokens per layer",
        elem_id="ss-budgets",
    )
    begin = run_buttons(shared, "compare", "Compare")
    status = gr.HTML(elem_id="ss-compare-status")
    grid = gr.HTML(elem_id="ss-grid", elem_classes=RESULT)
    gallery, legend = gallery_with_legend("kept", columns=4)
    with gr.Accordion("What these numbers mean", open=False):
        gr.Markdown(COMPARED_COSTS)
    grid.change(None, None, None, js=FOLLOW % "compare", **AT_ONCE)

    @sentences()
    def fold(*chosen: Any) -> Any:
        return gr.Accordion(methods_chosen([name for group in chosen for name in group or ()]))

    for group in methods:
        group.change(fold, methods, folded, trigger_mode="always_last", **AT_ONCE)
    outdate([chosen, *methods], "compare")

    def check(upload: Any, question: Any, counts: Any, *chosen: Any) -> tuple[Asked, list[str], list[int]]:
        names = [name for group in chosen for name in (group if isinstance(group, list) else ())]
        check_grid(names, counts)
        return Asked.sent(shared.uploads, upload, question), names, counts

    def run(asked: Asked, names: list[str], counts: list[int], stop: Event) -> Iterator[dict[Any, Any]]:
        for view in runs.compare(shared.engine, asked, names, counts, stop):
            yield {
                status: view.status,
                **({} if view.rows is None else {grid: table(view.rows)}),
                **({} if view.figures is None else show_figures(gallery, legend, view.figures)),
            }

    connect(
        [begin.click],
        check,
        run,
        [shared.picture, shared.question, chosen, *methods],
        [grid, gallery, legend, status],
        status,
        shared.turn,
    )


def watch_tab(shared: Shared, live: bool) -> None:
    how = "as you type" if live else "when you press Look or Enter"
    gr.Markdown(f"Ask something else of the same picture, and see {how} which patches are kept instead.")
    box = gr.Textbox(
        label="Another question",
        placeholder="Type a question",
        max_lines=4,
        max_length=MAX_QUESTION,
        elem_id="ss-watch",
    )
    begin = run_buttons(shared, "watch", "Look", scroll=False)
    status = gr.HTML(elem_id="ss-watch-status")
    gallery, legend = gallery_with_legend("pair", columns=2)
    memory = gr.State(None)
    outdate([box], "watch")

    def check(
        upload: Any, main: Any, other: Any, method: Any, retain: Any, seen: Any
    ) -> tuple[Asked, Asked, Any]:
        def sent(question: Any) -> Asked:
            return Asked.sent(shared.uploads, upload, question, method, retain, typing=True)

        return sent(main), sent(other), seen

    def run(main: Asked, other: Asked, seen: Any, stop: Event) -> Iterator[dict[Any, Any]]:
        for view in runs.watch(shared.engine, main, other, seen, stop):
            yield {status: view.status, memory: view.seen, **show_figures(gallery, legend, view.figures)}

    # Not box.input: Gradio does not send it for the first insertion, a pasted question.
    triggers = [begin.click, box.submit, *([box.change] if live else [])]
    # With the box at the upper edge of a phone, the patches below it are in view while one types.
    gr.on(triggers, None, None, None, js=SHOW % "ss-watch", **AT_ONCE)
    connect(
        triggers,
        check,
        run,
        [shared.picture, shared.question, box, shared.method, shared.retain, memory],
        [gallery, legend, memory, status],
        status,
        shared.turn,
        waiting="",
    )
