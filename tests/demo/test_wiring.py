"""Checks, turns and errors of the page's buttons."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Event
from typing import Any

import pytest

from sparsesight.demo.running import Stopped
from sparsesight.errors import SparseSightError

gr = pytest.importorskip("gradio", reason="needs Gradio: pip install 'sparsesight[demo]'")


class Wired:
    """A button whose run yields its question, and then ends as it is told to.

    Attributes:
        check, run: the functions of Gradio's events.
        status: its component.
        end: called with the stop event at the end of a run.
    """

    def __init__(self) -> None:
        from sparsesight.demo.wiring import Page, connect

        self.end: Callable[[Event], None] = lambda stop: None

        def check(question: str) -> tuple[str]:
            if not question:
                raise SparseSightError("the question is <empty>")
            return (question,)

        def run(question: str, stop: Event) -> Iterator[dict[Any, Any]]:
            yield {self.answer: question}
            self.end(stop)

        with Page() as page:
            question, self.answer, self.status = gr.Textbox(), gr.Textbox(), gr.HTML()
            button = gr.Button()
            outputs = [self.answer, self.status]
            connect([button.click], check, run, [question], outputs, self.status, gr.State(None))
        self.check, self.run = (
            event.fn for event in page.fns.values() if event.fn
        )  # one is JavaScript alone


@pytest.fixture
def wired() -> Wired:
    return Wired()


def test_asking_again_stops_what_was_asked_before(wired: Wired) -> None:
    line, first = wired.check("a", None)
    assert "Waiting for a turn" in line and not first.stop.is_set()
    _, second = wired.check("b", first)
    assert first.stop.is_set() and not second.stop.is_set()


def test_the_first_turn_runs_the_last_question_and_the_second_nothing(wired: Wired) -> None:
    """Both events waited in the queue; each reads the page's turn when it begins."""
    _, turn = wired.check("b", wired.check("a", None)[1])
    assert list(wired.run(turn)) == [{wired.answer: "b"}]
    assert list(wired.run(turn)) == [{wired.status: gr.skip()}]


def test_a_run_without_a_check_or_of_another_tab_does_nothing(wired: Wired) -> None:
    for turn in (None, Wired().check("a", None)[1]):
        (view,) = wired.run(turn)
        assert list(view) == [wired.status] and "Stopped" in view[wired.status]


def test_a_bad_question_changes_nothing(wired: Wired) -> None:
    _, turn = wired.check("a", None)
    with pytest.raises(gr.Error, match="The question is &lt;empty&gt;"):
        wired.check("", turn)
    assert not turn.stop.is_set()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (SparseSightError("retain=<b>: no"), "Retain=&lt;b&gt;: no."),
        (
            RuntimeError("/home/somebody/secret"),
            "Something went wrong here, the server&#x27;s log says what.",
        ),
    ],
)
def test_an_error_of_a_run_is_a_sentence_in_its_place_and_in_a_message(
    wired: Wired, error: Exception, said: str
) -> None:
    def end(stop: Event) -> None:
        raise error

    wired.end = end
    views = wired.run(wired.check("a", None)[1])
    assert next(views) == {wired.answer: "a"}
    line = next(views)[wired.status]
    assert said in line and 'role="alert"' in line
    with pytest.raises(gr.Error) as caught:
        next(views)
    assert caught.value.message == said and not caught.value.print_exception


def test_a_stopped_run_says_so(wired: Wired) -> None:
    def end(stop: Event) -> None:
        assert stop.is_set()
        raise Stopped

    wired.end = end
    _, turn = wired.check("a", None)
    turn.stop.set()
    *_, last = wired.run(turn)
    assert "Stopped" in last[wired.status]
