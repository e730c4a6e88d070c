"""What the buttons do, without a browser."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any, cast

import pytest
from PIL import Image

from sparsesight import bundled
from sparsesight.demo import runs
from sparsesight.demo.asked import Asked, check_grid
from sparsesight.demo.engine import Engine
from sparsesight.demo.uploads import Uploads
from sparsesight.errors import SparseSightError
from sparsesight.hf.loading import load_model
from tests.commands.command_line import PICTURE, QUESTION, independent

UPLOADS = Uploads(PICTURE.parent)
LETTER = "What letter is on the white card?"


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = Engine(load_model(), max_new_tokens=4)
    yield made
    made.close()


def words(html: str) -> str:
    """The text of HTML, without its tags."""
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


def test_ask(engine: Engine) -> None:
    views = list(runs.ask(engine, Asked(UPLOADS, PICTURE, QUESTION, "sparsevlm+", 96), Event()))
    dense, _ = independent(QUESTION)
    sparse, kept = independent(QUESTION, "sparsevlm+", retain=96)
    assert all(view.panels is None and not view.costs for view in views[:-1])
    first = words(views[0].dense)  # it may have its first token by now
    assert ("reading" in first or "writing" in first) and "waits for the dense answer" in words(
        views[0].sparse
    )
    last = views[-1]
    assert f"Dense all visual tokens {dense} first token" in words(last.dense)
    assert f"Sparse sparsevlm+, retain 96 {sparse} first token" in words(last.sparse)
    assert ("The same answer" in last.status) == (dense == sparse)
    assert last.panels is not None and len(last.panels) == 4
    assert last.panels[0].scores is None and "all 576" in last.panels[0].caption
    for panel, stage in zip(last.panels[1:], kept, strict=True):
        assert f"{len(stage)} of 576" in panel.caption
        assert panel.scores is not None and panel.scores.tobytes() != panel.kept.tobytes()
    assert len({panel.kept.tobytes() for panel in last.panels}) == 4
    assert "Words that judged the patches:" in words(last.words) and "<mark>heart</mark>" in last.words
    for quantity in ("Time to first token", "Tokens per second", "multiply-adds", "KV cache"):
        assert quantity in words(last.costs)
    assert re.search(r"Equal tokens 576 9[56]\.\d 17%", words(last.costs))


def test_keeping_everything_says_why_there_is_no_picture(engine: Engine) -> None:
    last = list(runs.ask(engine, Asked(UPLOADS, PICTURE, QUESTION, "sparsevlm+", 576), Event()))[-1]
    assert not last.panels and "every visual token" in last.no_panels
    assert "The same answer, with 100% of the prefill's arithmetic" in html.unescape(last.status)


def test_a_stopped_answer_says_so_and_keeps_what_was_said(engine: Engine) -> None:
    stop = Event()
    views = runs.ask(engine, Asked(UPLOADS, PICTURE, QUESTION, "sparsevlm+", 64), stop)
    for view in views:
        if "ss-caret" not in view.dense:  # the dense answer is there
            stop.set()
    assert "Stopped" in words(view.status) and "stopped" in words(view.sparse)
    assert independent(QUESTION)[0] in words(view.dense) and view.panels is None


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
def test_mistakes_are_found_before_a_turn_and_again_when_it_has_come(
    change: dict[str, Any], part: str
) -> None:
    good: dict[str, Any] = {
        "uploads": UPLOADS,
        "path": PICTURE,
        "question": QUESTION,
        "method": "sparsevlm+",
        "retain": 64,
    }
    Asked(**good).check()
    asked, nobody = Asked(**{**good, **change}), cast(Engine, None)  # no model is asked
    with pytest.raises(SparseSightError, match=re.escape(part)) as caught:
        asked.check()
    assert len(str(caught.value)) < 300
    for run in (
        runs.ask(nobody, asked, Event()),
        runs.compare(nobody, asked, ["random"], [64], Event()),
        runs.watch(nobody, asked, asked, None, Event()),
    ):
        with pytest.raises((SparseSightError, StopIteration)) as again:
            while True:
                next(run)  # type: ignore[call-overload]
        if (
            "question" not in change or change["question"] != "  "
        ):  # nothing to look at is no mistake of a look
            assert str(again.value) == str(caught.value)


def test_a_mistake_found_while_generating_is_shown_and_raised(engine: Engine) -> None:
    seen = []
    with pytest.raises(SparseSightError, match="'<image>'"):
        for view in runs.ask(engine, Asked(UPLOADS, PICTURE, "Is <image> red?", "sparsevlm+", 64), Event()):
            seen.append(view)
    assert 'role="alert"' in seen[-1].status and "&lt;image&gt;" in seen[-1].status
    assert "no answer" in words(seen[-1].dense) and "no answer" in words(seen[-1].sparse)


def test_compare(engine: Engine) -> None:
    methods, budgets = ["sparsevlm+", "tome"], [192, 64]
    seen = list(runs.compare(engine, Asked(UPLOADS, PICTURE, LETTER), methods, budgets, Event()))
    grids = [grid for grid, _ in seen if grid is not None]
    assert len(grids) == 5  # dense, and one with each cell
    assert [grid.count("to come") for grid in grids] == [4, 3, 2, 1, 0]
    text = words(grids[-1])
    assert f"{LETTER} {independent(LETTER)[0]} dense" in text
    assert "sparsevlm+ cost of 192 tokens" in text and "192 equal tokens" in text
    assert grids[-1].count("<img") == 4
    assert grids[-1].count("same as dense") + grids[-1].count("differs") == 4
    assert any("2 of 5: sparsevlm+ at 192" in line for _, line in seen)


def test_a_method_that_cannot_stands_in_its_own_cells(engine: Engine) -> None:
    seen = list(
        runs.compare(engine, Asked(UPLOADS, PICTURE, LETTER), ["pyramiddrop", "random"], [576], Event())
    )
    last = [grid for grid, _ in seen if grid is not None][-1]
    assert "there is nothing to measure" in last and "to come" not in last


def test_a_stopped_comparison_keeps_its_cells(engine: Engine) -> None:
    stop, last, status = Event(), None, ""
    for grid, said in runs.compare(engine, Asked(UPLOADS, PICTURE, LETTER), ["random"], [192, 64], stop):
        last, status = grid or last, said
        if last is not None and last.count("to come") == 1:
            stop.set()
    assert "Stopped" in status and last is not None and last.count("to come") == 1


@pytest.mark.parametrize(
    ("methods", "budgets", "part"),
    [
        ([], [64], "no method"),
        (["random"], [], "no budget"),
        (["random"], [0], "budget 0 is none"),
        (["random"], ["64"], "budget '64' is none"),
        (["random"], [True], "budget True is none"),
        (["random"], [10**9], "is none"),
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
    """The questions of the figures, what is remembered, and the line of status."""
    both = [Asked(UPLOADS, path, question, "sparsevlm+", 64) for question in (main, other)]
    for asked in both:
        asked.check(typing=True)
    *_, (shown, seen, status) = runs.watch(engine, *both, seen, Event())
    assert shown.count("<img") == shown.count("<figure>")
    return re.findall(r"<figcaption>(.*?) <b>", shown), seen, words(status)


def test_watch_counts_the_patches_that_another_question_keeps(engine: Engine) -> None:
    _, first = independent(QUESTION, "sparsevlm+", retain=64)
    _, second = independent(LETTER, "sparsevlm+", retain=64)
    shown, seen, said = look(engine, QUESTION, "")
    assert shown == [QUESTION] and said == "Type another question."
    assert seen is not None and seen.kept == set(first[-1])
    shown, again, said = look(engine, QUESTION, LETTER, seen)
    assert shown == [QUESTION, LETTER] and again is seen  # it was not asked anew
    new = len(set(second[-1]) - set(first[-1]))
    assert new > 0 and said.startswith(f"{new} of the {len(second[-1])} patches")


def test_what_is_remembered_of_another_question_or_picture_is_not_used(engine: Engine) -> None:
    _, seen, _ = look(engine, QUESTION, "")
    shown, other, _ = look(engine, LETTER, "", seen)
    assert shown == [LETTER] and other is not None and other.asked.question == LETTER
    _, moved, _ = look(engine, QUESTION, "", seen, bundled.pictures()[1])
    assert moved is not None and seen is not None and moved.figure != seen.figure and moved.kept != seen.kept


def test_without_a_question_of_the_page_the_other_stands_alone(engine: Engine) -> None:
    shown, seen, said = look(engine, " ", LETTER)
    assert shown == [LETTER] and seen is None and not said
    assert look(engine, "", "") == ([], None, "Type another question.")


def test_an_upload_is_read_anew(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.open(bundled.pictures()[1]).save(path)
    question = bundled.picture_questions()[bundled.pictures()[1].name][0]
    last = list(
        runs.ask(engine, Asked(Uploads(tmp_path), path, question["question"], "sparsevlm+", 288), Event())
    )[-1]
    assert question["answer"] in words(last.dense)


def test_the_key_has_what_occurs_on_the_picture(engine: Engine) -> None:
    path = bundled.pictures()[0]
    for method, merged in (("sparsevlm", True), ("random", False)):
        last = list(runs.ask(engine, Asked(UPLOADS, path, QUESTION, method, 64), Event()))[-1]
        assert last.panels is not None
        whole, *rest = last.panels
        assert whole.marks == ()
        assert {"kept", "dropped"} <= set(rest[-1].marks)
        assert ("merged" in rest[-1].marks) is ("place" in rest[-1].marks) is merged
        said = r": \d+ kept, \d+ merged, of 576$" if merged else r": \d+ of 576 kept$"
        assert re.search(said, rest[-1].caption)
        assert "score" in rest[0].score_marks and "gone" not in rest[0].score_marks
        assert "gone" in rest[-1].score_marks
