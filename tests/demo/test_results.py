"""What the page shows of answers."""

from __future__ import annotations

import html.parser
import re
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from sparsesight.demo import results
from sparsesight.demo.engine import StreamedAnswer
from sparsesight.methods import GROUPS, METHODS
from sparsesight.viz import Word
from sparsesight.viz.colours import heat, web
from sparsesight.viz.legend import GONE, JOINED, PATCH, SIGNS

EVIL = "<script>alert(1)</script>\"'&"


class Balanced(html.parser.HTMLParser):
    """Counts open tags."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def check(text: str) -> None:
    parser = Balanced()
    parser.feed(text)
    assert not parser.open and "script" not in parser.seen


@pytest.mark.parametrize("kind", ["", "problem", "verdict"])
def test_a_line_of_status_is_escaped(kind: str) -> None:
    made = results.status(EVIL, 1, 2, kind)
    assert "&lt;script&gt;" in made and ('role="alert"' in made) is (kind == "problem")
    check(made)
    assert results.status("") == ""


def test_an_answer_while_it_is_generated_and_after() -> None:
    assert results.said(None) == results.said(StreamedAnswer()) == ""
    assert results.said(StreamedAnswer("a red", 2)) == "a red"
    assert results.said(StreamedAnswer("", 1, done=True)) == "(an empty answer)"


@pytest.mark.parametrize(
    ("before", "after", "share"),
    [(200.0, 50.0, "25%"), (10.0, 15.0, "150%"), (10.0, 73.0, "7.3 x"), (None, 3.0, "—")],
)
def test_shares(before: float | None, after: float, share: str) -> None:
    assert results.share(before, after) == share


def test_the_words_that_judged_are_marked() -> None:
    prompt = [
        Word("USER:"),
        Word("", visual=576),
        Word("\nWhat"),
        Word(" color", rates=True),
        Word(" is it?"),
    ]
    blank = ("\N{NO-BREAK SPACE}", None)
    assert results.words(prompt) == [("\nWhat", None), blank, ("color", results.JUDGED), (" is it?", None)]
    assert results.words(prompt[:3]) == []  # nothing judged


def test_what_the_template_wrote_is_shown_nowhere() -> None:
    """Neither as a word that judged, where it did, nor as one that did not; blanks within the question stay."""
    behind = [
        Word("<|im_start|>", rates=True, template=True),
        Word("user", template=True),
        Word("", visual=576),
        Word("\n", rates=True, template=True),
        Word("What"),
        Word("\n", rates=True, template=True),
        Word("color?", rates=True),
        Word("<|im_end|>", rates=True, template=True),
        Word(" ASSISTANT:", rates=True, template=True),
    ]
    asked = [("What", None), ("\n", None), ("color?", results.JUDGED)]
    assert results.words(behind) == asked
    in_front = [*behind[:2], *behind[4:7], behind[2], *behind[7:]]
    assert results.words(in_front) == asked
    assert results.words([*behind[:4], *behind[7:]]) == []


def test_methods_to_choose_are_grouped_and_described() -> None:
    made = results.methods_to_choose()
    assert {name for _, name in made} == set(METHODS)
    for label, name in made:
        kind = METHODS[name]
        assert label == f"{kind.group().split()[0]} · {name}" and len(label) <= 22  # fits the closed menu
        assert f'li[aria-label="{label}"]::after {{ content: "{kind.when}"; }}' in results.menu_css()
        assert unescape(results.about(name)).startswith(f"<b>{name}</b>: {kind.when}.")
        assert GROUPS[kind.group()] in results.about(name) and kind.when in unescape(results.about_all())
    for group, said in GROUPS.items():
        assert f"{group}: {said}" in results.KINDS.lower()
    assert results.about("halves > fastv") == results.about(["halves"]) == ""
    check(results.about_all())
    groups = [METHODS[name].group() for _, name in made]
    assert groups == sorted(groups, key=[*GROUPS].index)


def test_the_legend_of_scores_has_their_colours() -> None:
    css = (Path(results.__file__).with_name("style.css")).read_text("utf-8")
    colours = [web(tuple(map(int, heat(np.array(share))))) for share in (0, 0.5, 1)]
    assert f"linear-gradient(to right, {', '.join(colours)})" in css


def test_a_comparison_begins_with_a_verdict() -> None:
    """The methods at the cheapest budget that keep the dense answer, and how many others do not."""

    def verdict(*same: bool, failed: int = 0) -> str:
        found = [
            results.Tried(name, budget, same, share)
            for (name, budget, share), same in zip(
                [("halves", 192, 0.36), ("halves", 64, 0.2), ("random", 192, 0.36), ("random", 64, 0.2)],
                same,
                strict=False,
            )
        ]
        return results.verdict(found, failed)

    at = "at budget 64, for 20% of the multiply-adds"
    assert verdict(True, True, True, True) == f"All 4 keep the dense answer: {at}."
    assert verdict(True, True, True, False) == (
        f"halves keeps the dense answer {at}; 1 of 4 answers otherwise."
    )
    assert verdict(False, True, False, True) == (
        f"halves and random keep the dense answer {at}; 2 of 4 answer otherwise."
    )
    assert verdict(True, False, False, False).startswith(
        "halves keeps the dense answer at budget 192, for 36%"
    )
    assert verdict(False, False, failed=1) == "None of 2 keeps the dense answer; 1 could not run."
    assert verdict(True) == "halves keeps the dense answer at budget 192, for 36% of the multiply-adds."
    assert verdict(failed=2) == "Nothing to compare; 2 could not run."


def test_rows_of_a_comparison_fit_its_head() -> None:
    rows = [
        results.compared("dense", None),
        results.compared("random", 64, problem=EVIL),
        results.compared("dense", None, StreamedAnswer("red", 1, done=True)),
    ]
    assert {len(row) for row in rows} == {len(results.COMPARISON)}
    assert [row[2] for row in rows] == ["…", EVIL, "red"]
    made = results.table(rows)
    check(made)
    assert made.count("<tr>") == 4 and made.count('<td data-head="own retain">') == 3
    assert "&lt;script&gt;" in made and results.table([]) == ""


def test_the_key_names_what_occurs_in_its_order() -> None:
    made = results.key((GONE, JOINED, PATCH, PATCH))
    assert re.findall(r"</i>(.*?)</li>", made) == ["kept", "merged", "dropped"]
    check(made)
    check(results.key(SIGNS))
    assert results.key(()) == ""
