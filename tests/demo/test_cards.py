"""The page's own HTML."""

from __future__ import annotations

import html.parser
import re
from pathlib import Path

import pytest

from sparsesight.demo import cards
from sparsesight.demo.engine import StreamedAnswer
from sparsesight.viz import Word
from sparsesight.viz.colours import KEPT, MERGED, SKY, web

EVIL = "<script>alert(1)</script>\"'&"


class Balanced(html.parser.HTMLParser):
    """Counts open tags."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        if tag not in ("img", "br", "i/"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def check(text: str) -> None:
    parser = Balanced()
    parser.feed(text)
    assert not parser.open and "script" not in parser.seen


@pytest.mark.parametrize(
    "made",
    [
        cards.answer(EVIL, EVIL, StreamedAnswer(EVIL, 3, 0.5, 2.0), EVIL),
        cards.status(EVIL, 1, 2),
        cards.problem(EVIL),
        cards.grid(
            EVIL, StreamedAnswer(EVIL, done=True), [(EVIL, [cards.Cell(64, problem=EVIL), cards.Cell(32)])]
        ),
        cards.figure(EVIL, EVIL, "data:image/jpeg;base64,", EVIL),
        cards.pair(cards.figure(EVIL, EVIL, ""), cards.figure(EVIL, EVIL, "")),
        cards.words([Word(EVIL, rates=True), Word(EVIL)]),
    ],
)
def test_what_was_written_is_escaped(made: str) -> None:
    assert "&lt;script&gt;" in made
    check(made)


def test_an_answer_while_it_is_written_and_after() -> None:
    waiting = cards.answer("Dense", "", None, "waiting")
    assert "waiting" in waiting and "ss-caret" in waiting and waiting.count(cards.NOTHING) == 3
    writing = cards.answer("Dense", "", StreamedAnswer("a red", 2, 0.25, 8.0), "writing")
    assert "a red<span" in writing and "250 ms" in writing and "writing" in writing
    assert ">8.0<" not in writing and writing.count(cards.NOTHING) == 1  # two tokens tell no speed
    assert ">8.0<" in cards.answer("Dense", "", StreamedAnswer("a red ring in the", 5, 0.25, 8.0), "writing")
    done = cards.answer("Dense", "", StreamedAnswer("a red ring", 3, 0.25, 8.0, done=True), "writing")
    assert "a red ring" in done and "ss-caret" not in done and "writing" not in done
    assert "(an empty answer)" in cards.answer("Dense", "", StreamedAnswer("", 1, 0.1, done=True), "")


@pytest.mark.parametrize(
    ("before", "after", "share", "width"),
    [
        (200.0, 50.0, "25%", "25.0"),
        (10.0, 15.0, "150%", "100.0"),
        (10.0, 73.0, "7.3 x", "100.0"),
        (None, 3.0, "—", None),
    ],
)
def test_shares(before: float | None, after: float, share: str, width: str | None) -> None:
    row = cards._row("x", "", "", before, after)
    assert row.endswith(f"{share}</td></tr>")
    assert re.findall(r"width:([\d.]+)%", row) == ([] if width is None else [width])


def test_the_words_that_judged_are_marked() -> None:
    prompt = [
        Word("USER:"),
        Word("", visual=576),
        Word("\nWhat"),
        Word(" color", rates=True),
        Word(" is it?"),
    ]
    assert ">\nWhat" not in cards.words(prompt) and "USER" not in cards.words(prompt)
    assert "What <mark>color</mark> is it?" in cards.words(prompt)
    assert cards.words(prompt[:3]) == ""  # nothing judged


def test_the_key_names_what_occurs_in_its_order() -> None:
    made = cards.key(("dropped", "merged", "kept", "kept"))
    assert re.findall(r'<i class="ss-(\w+)" ', made) == ["kept", "merged", "dropped"]
    assert "merged into one that stays" in made and "padding" not in made
    check(made)
    assert cards.key(()) == ""
    grid = cards.grid(
        "?", None, [("a", [cards.Cell(64, marks=("kept",))]), ("b", [cards.Cell(64, marks=("merged",))])]
    )
    assert grid.count("<li>") == 2 and grid.count("ss-key") == 1


def test_every_sign_of_the_key_is_drawn() -> None:
    style = Path(cards.__file__).with_name("style.css").read_text("utf-8")
    assert all(f".ss-key .ss-{name} " in style for name in cards.MARKS)
    for name, colour in (("kept", KEPT), ("merged", SKY), ("place", MERGED)):
        assert web(colour) in next(x for x in style.splitlines() if x.startswith(f".ss-key .ss-{name} "))
