"""What the buttons do, without a browser."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from PIL import Image

from sparsesight import bundled
from sparsesight.demo import runs
from sparsesight.demo.asked import Asked, check_grid
from sparsesight.demo.engine import Engine
from sparsesight.demo.running import Stopped
from sparsesight.demo.uploads import Uploads
from sparsesight.errors import SparseSightError
from sparsesight.hf.loading import load_model
from sparsesight.viz.legend import CENTRE, GONE, JOINED, PATCH
from tests.commands.command_line import PICTURE, QUESTION, independent

UPLOADS = Uploads(PICTURE.parent)
LETTER = "What letter is on the white card?"


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    made = Engine(load_model(), max_new_tokens=4)
    yield made
    made.close()


def asked(
    question: str = QUESTION, method: str = "sparsevlm+", retain: int = 64, path: Path = PICTURE
) -> Asked:
    return Asked(UPLOADS, path, question, method, retain)


def words(html: str) -> str:
    """The text of HTML or of a Markdown table, without tags and bars."""
    return " ".join(re.sub(r"<[^>]*>|\|", " ", html).split())


def test_ask(engine: Engine) -> None:
    views = list(runs.ask(engine, asked(retain=96), Event()))
    dense, _ = independent(QUESTION)
    sparse, kept = independent(QUESTION, "sparsevlm+", retain=96)
    assert all(view.panels is None and not view.costs for view in views[:-2])
    first = words(views[0].status)  # it may have its first token by now
    assert first.startswith(("dense answer: reading", "dense answer: writing")) and not views[0].sparse
    last = views[-1]
    assert last.figure is not None and last.figure.startswith(b"\x89PNG")
    assert views[-2] == replace(last, figure=None)
    assert (last.dense, last.sparse) == (dense, sparse)
    assert ("Same answer; " in last.status) == (dense == sparse)
    assert last.panels is not None and len(last.panels) == 4
    assert last.panels[0].scores is None and "all 576" in last.panels[0].caption
    for panel, stage in zip(last.panels[1:], kept, strict=True):
        assert f"{len(stage)} of 576" in panel.caption
        assert panel.scores is not None and panel.scores.tobytes() != panel.kept.tobytes()
    assert len({panel.kept.tobytes() for panel in last.panels}) == 4
    assert [word.strip() for word, label in last.words if label] == ["heart"]
    for quantity in ("Visual tokens per layer", "multiply-adds", "KV cache"):
        assert quantity in words(last.costs)
    assert re.search(r"Visual tokens per layer 576 9[56]\.\d 17%", words(last.costs))


def test_keeping_everything_says_why_there_is_no_picture(engine: Engine) -> None:
    last = list(runs.ask(engine, asked(retain=576), Event()))[-1]
    assert not last.panels and "every visual token" in last.no_panels
    assert "Same answer; nothing was saved (ran dense" in html.unescape(last.status)


def test_a_stopped_answer_keeps_what_was_said(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    stop, answer = Event(), Engine._answer

    def not_before(self: Engine, picture: Any, question: str, method: Any, *rest: Any) -> None:
        if method is not None:  # a short answer could be complete before it is stopped
            assert stop.wait(60)
        answer(self, picture, question, method, *rest)

    monkeypatch.setattr(Engine, "_answer", not_before)
    with pytest.raises(Stopped):
        for view in runs.ask(engine, asked(), stop):
            if "sparse answer" in view.status:
                stop.set()
    assert view.dense == independent(QUESTION)[0] and view.panels is None


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"path": None}, "there is no picture"),
        ({"question": "  "}, "question is empty"),
        ({"question": None}, "question is empty"),
        ({"question": "x" * 1001}, "1,001 characters"),
        ({"method": "florb"}, "'florb'"),
        ({"retain": 2.5}, "retain=2.5"),
        ({"retain": "many"}, "retain='many'"),
        ({"retain": 0}, "retain=0"),
        ({"retain": float("nan")}, "retain=nan"),
        ({"retain": float("inf")}, "retain=inf"),
        ({"retain": True}, "retain=True"),
        ({"retain": 10**400}, "a whole number"),
        ({"retain": 1_000_001}, "1,000,000 at most"),
        ({"method": "x" * 10**6}, "is unknown"),
        ({"method": ["sparsevlm+"]}, "is unknown"),
        ({"question": "\ud800"}, "half a character"),
        ({"path": PICTURE.parent / ".." / "pictures.json"}, "not on the server"),
    ],
)
def test_mistakes_are_found_before_a_turn(change: dict[str, Any], part: str) -> None:
    good: dict[str, Any] = {
        "uploads": UPLOADS,
        "path": PICTURE,
        "question": QUESTION,
        "method": "sparsevlm+",
        "retain": 64,
    }
    Asked(**good).check()
    with pytest.raises(SparseSightError, match=re.escape(part)) as caught:
        Asked(**{**good, **change}).check()
    assert len(str(caught.value)) < 300


def test_a_mistake_found_while_generating_is_raised(engine: Engine) -> None:
    for run in (
        runs.ask(engine, asked("Is <image> red?"), Event()),
        runs.compare(engine, asked("Is <image> red?"), ["random"], [64], Event()),
        runs.watch(engine, asked(), asked("Is <image> red?"), None, Event()),
    ):
        with pytest.raises(SparseSightError, match="'<image>'"):
            list(run)


def test_compare(engine: Engine) -> None:
    methods, budgets = ["sparsevlm+", "tome"], [192, 64]
    seen = list(runs.compare(engine, asked(LETTER), methods, budgets, Event()))
    tables = [view.rows for view in seen if view.rows is not None]
    assert len(tables) == 5  # one with each answer
    assert [sum(row[2] == "…" for row in rows) for rows in tables] == [4, 3, 2, 1, 0]
    dense = independent(LETTER)[0]
    assert tables[-1][0][:3] == ["dense", None, dense]
    assert [row[:2] for row in tables[-1][1:]] == [[name, budget] for name in methods for budget in budgets]
    assert tables[-1][1][4] == pytest.approx(192, abs=1)  # equal tokens
    for row in tables[-1][1:]:
        assert row[3] == ("same" if row[2] == dense else "differs")
    figures = [view.figures for view in seen if view.figures is not None][-1]
    assert [figure.caption for figure in figures] == [
        f"{name} at {budget}: {answer}" for name, budget, answer, *_ in tables[-1][1:]
    ]
    assert len({figure.image.tobytes() for figure in figures}) == 4
    assert any("2 of 5: sparsevlm+, budget 192" in view.status for view in seen)
    same = sum(row[3] == "same" for row in tables[-1])
    assert "ss-status verdict" in seen[-1].status
    said = f"All {same} keep" if same == 4 else f"{4 - same} of 4 answer" if same else "None of 4 keeps"
    assert said in seen[-1].status


def test_a_method_that_cannot_stands_in_its_own_row(engine: Engine) -> None:
    seen = list(runs.compare(engine, asked(LETTER), ["pyramiddrop", "random"], [576], Event()))
    last = [view.rows for view in seen if view.rows is not None][-1]
    assert "there is nothing to measure" in last[1][2] and all(row[2] != "…" for row in last)
    assert re.search("; [12] could not run", seen[-1].status)


def test_a_stopped_comparison_keeps_its_rows(engine: Engine) -> None:
    stop, last = Event(), None
    with pytest.raises(Stopped):
        for view in runs.compare(engine, asked(LETTER), ["random"], [192, 64], stop):
            last = view.rows or last
            if last is not None and sum(row[2] == "…" for row in last) == 1:
                stop.set()
    assert last is not None and sum(row[2] == "…" for row in last) == 1


@pytest.mark.parametrize(
    ("methods", "budgets", "part"),
    [
        ([], [64], "no method"),
        (["random"], [], "no budget"),
        (["random"], [0], "budget 0 is not a budget"),
        (["random"], ["64"], "budget '64' is not a budget"),
        (["random"], [True], "budget True is not a budget"),
        (["random"], [10**9], "is not a budget"),
        ([["random"]], [64], "is unknown"),
        (["random"] * 10**5, [64], "100000 methods"),
        (["florb"], [64], "'florb'"),
        (["random"] * 9, [192, 128, 64], "27 runs"),
    ],
)
def test_what_cannot_be_compared(methods: list[str], budgets: list[int], part: str) -> None:
    with pytest.raises(SparseSightError, match=part):
        check_grid(methods, budgets)


def look(
    engine: Engine, main: str, other: str, seen: runs.Looked | None = None, path: Path = PICTURE
) -> tuple[list[str], runs.Looked | None, str]:
    """The captions of the figures, what is remembered, and the line of status."""
    both = [asked(question, path=path) for question in (main, other)]
    for each in both:
        each.check(typing=True)
    *_, last = runs.watch(engine, both[0], both[1], seen, Event())
    return [figure.caption for figure in last.figures], last.seen, words(html.unescape(last.status))


def captions(*questions: str) -> list[str]:
    return [f"{question} {independent(question, 'sparsevlm+', retain=64)[0]}" for question in questions]


def test_watch_counts_the_patches_that_another_question_keeps(engine: Engine) -> None:
    _, first = independent(QUESTION, "sparsevlm+", retain=64)
    _, second = independent(LETTER, "sparsevlm+", retain=64)
    shown, seen, said = look(engine, QUESTION, "")
    assert shown == captions(QUESTION) and said == "Type another question."
    assert seen is not None and seen.kept == set(first[0])
    shown, again, said = look(engine, QUESTION, LETTER, seen)
    assert shown == captions(QUESTION, LETTER) and again is seen  # it was not asked anew
    new = len(set(second[0]) - set(first[0]))
    assert new > 0 and said.startswith(f"{new} of the {len(second[0])} patches")


def test_what_is_remembered_of_another_question_or_picture_is_not_used(engine: Engine) -> None:
    _, seen, _ = look(engine, QUESTION, "")
    shown, other, _ = look(engine, LETTER, "", seen)
    assert shown == captions(LETTER) and other is not None and other.asked.question == LETTER
    _, moved, _ = look(engine, QUESTION, "", seen, bundled.pictures()[1])
    assert moved is not None and seen is not None
    assert moved.figure.image.tobytes() != seen.figure.image.tobytes() and moved.kept != seen.kept


def test_without_a_question_of_the_page_the_other_stands_alone(engine: Engine) -> None:
    shown, seen, said = look(engine, " ", LETTER)
    assert shown == captions(LETTER) and seen is None and not said
    assert look(engine, "", "") == ([], None, "Type another question.")


def test_an_upload_is_read_anew(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.open(bundled.pictures()[1]).save(path)
    question = bundled.picture_questions()[bundled.pictures()[1].name][0]
    request = Asked(Uploads(tmp_path), path, question["question"], "sparsevlm+", 288)
    assert list(runs.ask(engine, request, Event()))[-1].dense == question["answer"]


def test_the_legend_has_what_occurs_on_the_picture(engine: Engine) -> None:
    path = bundled.pictures()[0]
    for method, merged in (("sparsevlm", True), ("random", False)):
        last = list(runs.ask(engine, asked(method=method, path=path), Event()))[-1]
        assert last.panels is not None
        whole, *rest = last.panels
        assert not whole.signs
        assert rest[-1].signs == {PATCH, GONE, *((JOINED, CENTRE) if merged else ())}
        assert re.search(
            r": kept \d+ \+ \d+ merged of 576$" if merged else r": kept \d+ of 576$", rest[-1].caption
        )
