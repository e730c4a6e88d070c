"""What the page's buttons do, as views that follow one another; without Gradio."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from threading import Event
from typing import TypeVar

from ..errors import SparseSightError
from ..methods import make_method
from . import cards
from .asked import Asked, check_grid
from .engine import Engine, StreamedAnswer
from .pictures import Panel, last_stage, panels
from .running import Stopped

T = TypeVar("T")
CELL = 352  # pixels of an overlay in a comparison, shown at half that, for sharp screens
FIGURE = 640


@dataclass(frozen=True)
class AskView:
    """The tab "Ask". ``panels`` is None until there is something to see; ``words`` are those of the prompt."""

    dense: str
    sparse: str
    costs: str = ""
    status: str = ""
    panels: list[Panel] | None = None
    no_panels: str = ""
    words: str = ""


def ask(engine: Engine, asked: Asked, stop: Event) -> Iterator[AskView]:
    """The dense answer, then the sparse one, as they are written; then what both cost and what was kept.

    Raises:
        SparseSightError: whatever is wrong with what was asked.
    """
    asked.check()
    method, picture = asked.chosen(), asked.uploads.read(asked.path)
    titles = ("Dense", "all visual tokens"), ("Sparse", f"{asked.method}, retain {method.retain}")
    said: list[StreamedAnswer | None] = [None, None]
    states = ["reading", "waits for the dense answer"]

    def view(status: str, done: int) -> AskView:
        dense, sparse = (cards.answer(*titles[i], said[i], states[i]) for i in (0, 1))
        return AskView(dense, sparse, status=cards.status(status, done, 2))

    try:
        for turn, who in enumerate((None, method)):
            name = titles[turn][0].lower()
            for speech, seconds in _timed(engine.ask(picture, asked.question, who, stop)):
                said[turn] = speech
                states[turn] = (
                    f"{'writing' if speech else 'reading the picture and the question'}, {seconds:.0f} s"
                )
                yield view(f"{name} answer: {states[turn]}", turn)
    except Stopped:
        states = ["stopped"] * 2
        yield replace(view("", 0), status=cards.status("Stopped."))
        return
    except Exception as error:
        states = ["no answer"] * 2
        yield replace(view("", 0), status=cards.problem(sentence(error)))
        raise
    dense, sparse = said
    assert dense is not None and sparse is not None and sparse.pruned is not None
    made, why_not = panels(sparse.pruned)
    same = "The same answer" if dense.text == sparse.text else "Another answer"
    report = sparse.pruned.report
    status = f"{same}, with {report.macs_sparse / report.macs_dense:.0%} of the prefill's arithmetic."
    yield replace(
        view("", 0),
        costs=cards.costs(dense, sparse),
        status=cards.status(status),
        panels=made,
        no_panels=why_not,
        words=cards.words(sparse.pruned.look.words) if sparse.pruned.look is not None else "",
    )


def compare(
    engine: Engine, asked: Asked, methods: Sequence[str], budgets: Sequence[int], stop: Event
) -> Iterator[tuple[str | None, str]]:
    """The grid whenever there is more of it (None: as before), and a line of status.

    Every method answers at every budget, which costs the same for all.

    Raises:
        SparseSightError: whatever is wrong with what was asked; what is wrong with one method stands in its cells.
    """
    asked.check()
    check_grid(methods, budgets)
    picture = asked.uploads.read(asked.path)
    chosen = {name: make_method(name) for name in methods}
    rows = {name: [cards.Cell(budget) for budget in budgets] for name in methods}
    total, done = len(rows) * len(budgets) + 1, 0
    dense: StreamedAnswer | None = None

    def view() -> str:
        return cards.grid(asked.question, dense, list(rows.items()))

    def status(text: str) -> str:
        return cards.status(text, done, total)

    try:
        for speech, seconds in _timed(engine.ask(picture, asked.question, None, stop)):
            dense = speech
            yield None, status(f"1 of {total}: dense, {seconds:.0f} s")
        assert dense is not None
        done = 1
        yield view(), status("")
        for name, cells in rows.items():
            for column, budget in enumerate(budgets):
                try:
                    runs = engine.ask(picture, asked.question, chosen[name], stop, equal_to=budget)
                    for speech, seconds in _timed(runs):
                        cell = cards.Cell(budget, speech)
                        yield None, status(f"{done + 1} of {total}: {name} at {budget}, {seconds:.0f} s")
                    cells[column] = _finished(cell, dense)
                except SparseSightError as error:
                    cells[column] = cards.Cell(budget, problem=str(error))
                done += 1
                yield view(), status("")
    except Stopped:
        yield None, cards.status("Stopped.")
        return
    except Exception as error:
        yield None, cards.problem(sentence(error))
        raise
    yield None, ""


def _finished(cell: cards.Cell, dense: StreamedAnswer) -> cards.Cell:
    assert cell.speech is not None and cell.speech.pruned is not None
    overlay, marks = last_stage(cell.speech.pruned, CELL)
    return replace(cell, same=cell.speech.text == dense.text, overlay=overlay, marks=marks)


@dataclass(frozen=True)
class Looked:
    """What a question kept at the last stage, and the figure of it with its marks."""

    asked: Asked
    kept: frozenset[int]
    figure: str = field(repr=False)
    marks: tuple[str, ...] = ()


def watch(
    engine: Engine, main: Asked, other: Asked, seen: Looked | None, stop: Event
) -> Iterator[tuple[str, Looked | None, str]]:
    """What another question keeps beside what the page's question keeps: HTML, what to remember, a line of status.

    Args:
        main: the page's question; if it is empty, the other one stands alone.
        other: the other one; if it is empty, the page's stands alone.
        seen: what is remembered of the page's question; it is asked only if it changed.

    Raises:
        SparseSightError: whatever is wrong with what was asked.
    """
    for asked in (main, other):
        asked.check(typing=True)
    if seen is not None and seen.asked != main:
        seen = None
    now: Looked | None = None

    def view(status: str) -> tuple[str, Looked | None, str]:
        shown = [looked for looked in (seen, now) if looked is not None]
        marks = [mark for looked in shown for mark in looked.marks]
        return cards.pair(seen.figure if seen else "", now.figure if now else "", marks), seen, status

    try:
        for asked in (main, other):
            if not asked.question.strip() or (seen is not None and asked is main):
                continue
            looked = yield from _look(engine, asked, stop, view)
            if asked is main:
                seen = looked
            else:
                now = looked
    except Stopped:
        yield view(cards.status("Stopped."))
        return
    except Exception as error:
        yield view(cards.problem(sentence(error)))
        raise
    said = "" if now is not None else "Type another question."
    if seen is not None and now is not None and now.kept:
        moved = len(now.kept - seen.kept)
        said = f"{moved} of the {len(now.kept)} patches kept for this question are not kept for the page's."
    yield view(cards.status(said))


def _look(engine: Engine, asked: Asked, stop: Event, view: Callable[[str], T]) -> Generator[T, None, Looked]:
    """One sparse answer, with a view now and then if it takes long."""
    speech: StreamedAnswer | None = None
    picture = asked.uploads.read(asked.path)
    for latest, seconds in _timed(engine.ask(picture, asked.question, asked.chosen(), stop)):
        speech = latest
        if seconds > 1:
            yield view(cards.status(f"looking, {seconds:.0f} s"))
    assert speech is not None and speech.pruned is not None
    found = speech.pruned
    figure, marks = last_stage(found, FIGURE)
    why_not = "" if figure else found.why_not or found.report.samples[0].note
    kept = frozenset(found.kept[-1]) if found.kept else frozenset()
    return Looked(asked, kept, cards.figure(asked.question, speech.text, figure, why_not), marks)


def sentence(error: Exception) -> str:
    """What to tell of an error: of one that is no user's mistake, the log has the rest."""
    said = (
        str(error)
        if isinstance(error, SparseSightError)
        else "something went wrong here, the server's log says what"
    )
    return f"{said[:1].upper()}{said[1:]}."


def _timed(speeches: Iterator[StreamedAnswer | None]) -> Iterator[tuple[StreamedAnswer | None, float]]:
    """The last that was said whenever there is more of it or a while has passed, with the seconds since the start."""
    last, start = None, time.monotonic()
    for speech in speeches:
        last = speech or last
        yield last, time.monotonic() - start
