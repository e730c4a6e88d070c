"""What the page's buttons do, as views that follow one another; without Gradio.

Each of them raises :class:`.running.Stopped` if it is stopped, and :class:`SparseSightError` for whatever is wrong with
what was asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from threading import Event
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import SparseSightError
from ..methods import make_method
from .asked import Asked
from .engine import Engine, StreamedAnswer
from .pictures import Panel, one_figure, one_stage, panels
from .results import Tried, compared, costs, said, status, verdict, words

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..viz.legend import Sign

T = TypeVar("T")
FIGURE = 480  # pixels of what a stage kept


@dataclass(frozen=True)
class AskView:
    """The tab "Ask". ``panels`` is None until the sparse answer is complete; the last view adds a PNG of all."""

    dense: str
    sparse: str
    status: str
    costs: str = ""
    words: Sequence[tuple[str, str | None]] = ()
    panels: list[Panel] | None = None
    no_panels: str = ""
    figure: bytes | None = None


def ask(engine: Engine, asked: Asked, stop: Event) -> Iterator[AskView]:
    """The dense answer, then the sparse one, as they are generated; then what both cost and what was kept."""
    picture, answers = asked.uploads.read(asked.path), [StreamedAnswer(), StreamedAnswer()]

    def view(line: str) -> AskView:
        return AskView(said(answers[0]), said(answers[1]), line)

    for turn, method in enumerate((None, asked.chosen())):
        for speech, seconds in _timed(engine.ask(picture, asked.question, method, stop)):
            answers[turn] = speech or answers[turn]
            doing = "writing" if speech else "reading the picture and the question"
            yield view(status(f"{'sparse' if turn else 'dense'} answer: {doing}, {seconds:.0f} s", turn, 2))
    dense, sparse = answers
    assert sparse.pruned is not None and sparse.method is not None
    made, why_not = panels(sparse.pruned)
    report, look = sparse.pruned.report, sparse.pruned.look
    verdict = f"{'Same' if dense.text == sparse.text else 'Different'} answer; {report.headline}."
    last = replace(
        view(status(verdict, kind="verdict")),
        costs=costs(report),
        words=words(look.words) if look is not None else (),
        panels=made,
        no_panels=why_not,
    )
    yield last
    if not stop.is_set():
        drawn = one_figure(
            sparse.pruned, asked.question, {"dense": said(dense), sparse.method.name: said(sparse)}
        )
        if drawn is not None:
            yield replace(last, figure=drawn)


@dataclass(frozen=True)
class Figure:
    """What a stage kept of a picture, with its caption and the entries of its legend."""

    image: Image = field(repr=False)
    caption: str
    signs: frozenset[Sign]


@dataclass(frozen=True)
class CompareView:
    """The tab "Compare": the rows of its table and the pictures (None: as before), and a line of status."""

    status: str
    rows: list[list[Any]] | None = None
    figures: list[Figure] | None = None


def compare(
    engine: Engine, asked: Asked, methods: Sequence[str], budgets: Sequence[int], stop: Event
) -> Iterator[CompareView]:
    """Every method's answer at every budget, which costs the same for all; what is wrong with one method is said in its
    row."""
    picture = asked.uploads.read(asked.path)
    pairs = [(name, budget) for name in methods for budget in budgets]
    rows = [compared("dense", None), *(compared(name, budget) for name, budget in pairs)]
    figures: list[Figure] = []
    tried: list[Tried] = []
    dense = StreamedAnswer()
    for number, (name, budget) in enumerate([("dense", None), *pairs]):
        which = name if budget is None else f"{name}, budget {budget}"
        try:
            method = None if budget is None else make_method(name)
            speech = StreamedAnswer()
            for latest, seconds in _timed(engine.ask(picture, asked.question, method, stop, equal_to=budget)):
                speech = latest or speech
                line = f"{number + 1} of {len(rows)}: {which}, {seconds:.0f} s"
                yield CompareView(status(line, number, len(rows)))
            dense = dense if number else speech
            rows[number] = compared(name, budget, speech, dense.text)
            if speech.pruned is not None:
                image, signs = one_stage(speech.pruned, picture, -1, FIGURE)
                assert budget is not None
                report = speech.pruned.report
                tried.append(
                    Tried(name, budget, speech.text == dense.text, report.macs_sparse / report.macs_dense)
                )
                caption = f"{name} at {budget}: {said(speech)}"
                figures.append(Figure(image, caption, frozenset(signs)))
        except SparseSightError as error:
            if budget is None:
                raise
            rows[number] = compared(name, budget, problem=str(error))
        yield CompareView(status("", number + 1, len(rows)), list(rows), list(figures))
    yield CompareView(status(verdict(tried, len(pairs) - len(tried)), kind="verdict"))


@dataclass(frozen=True)
class Looked:
    """What a question kept at the first stage, and by what if not by score: later ones need not read it."""

    asked: Asked
    kept: frozenset[int]
    kept_by: str
    figure: Figure


@dataclass(frozen=True)
class WatchView:
    """The tab "Change the question". ``seen`` is what to remember of the page's question."""

    figures: list[Figure]
    seen: Looked | None
    status: str


def watch(engine: Engine, main: Asked, other: Asked, seen: Looked | None, stop: Event) -> Iterator[WatchView]:
    """What another question keeps beside what the page's question keeps.

    Args:
        main: the page's question; if it is empty, the other one is shown alone.
        other: the other one; if it is empty, the page's is shown alone.
        seen: what is remembered of the page's question, which is asked again only if it changed.
    """
    if seen is not None and seen.asked != main:
        seen = None
    now: Looked | None = None

    def view(line: str) -> WatchView:
        return WatchView([looked.figure for looked in (seen, now) if looked is not None], seen, line)

    if main.question.strip() and seen is None:
        seen = yield from _look(engine, main, stop, view)
    if other.question.strip():
        now = yield from _look(engine, other, stop, view)
    line, kind = "" if now is not None else "Type another question.", ""
    if seen is not None and now is not None and now.kept:
        moved = len(now.kept - seen.kept)
        kind, line = (
            "found",
            f"{moved} of the {len(now.kept)} patches of the first stage are not kept for the page's question."
            + (f" Kept are {now.kept_by}." if now.kept_by else ""),
        )
    yield view(status(line, kind=kind))


def _look(engine: Engine, asked: Asked, stop: Event, view: Callable[[str], T]) -> Generator[T, None, Looked]:
    """One sparse answer, with a view now and then if it takes long."""
    speech = StreamedAnswer()
    picture = asked.uploads.read(asked.path)
    for latest, seconds in _timed(engine.ask(picture, asked.question, asked.chosen(), stop)):
        speech = latest or speech
        if seconds > 1:
            yield view(status(f"looking, {seconds:.0f} s"))
    found = speech.pruned
    assert found is not None
    image, signs = one_stage(found, picture, 0, FIGURE)
    why_not = (
        "" if found.look is not None and found.look.stages else found.why_not or found.report.samples[0].note
    )
    caption = f"{asked.question} {said(speech)}" + (f" ({why_not})" if why_not else "")
    kept = frozenset(found.kept[0]) if found.kept else frozenset[int]()
    kept_by = found.stages[0].meaning.kept if found.stages else ""
    return Looked(asked, kept, kept_by, Figure(image, caption, frozenset(signs)))


def sentence(error: Exception) -> str:
    """What the page says of an error; the log has the rest of one that is not a user's mistake."""
    if not isinstance(error, SparseSightError):
        return "Something went wrong here, the server's log says what."
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."


def _timed(speeches: Iterator[StreamedAnswer | None]) -> Iterator[tuple[StreamedAnswer | None, float]]:
    """The latest answer whenever there is more of it or a while has passed, with the seconds since the start."""
    last, start = None, time.monotonic()
    for speech in speeches:
        last = speech or last
        yield last, time.monotonic() - start
