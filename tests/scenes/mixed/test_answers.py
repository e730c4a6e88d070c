"""How right an answer is."""

from __future__ import annotations

import pytest

from sparsesight.scenes.mixed.answers import score, target_of
from sparsesight.scenes.questions import Question

ROW = {"sentence": "The top row shows a lion, an apple and a red card."}
BOX = {"box": "10 20 30 40"}


@pytest.mark.parametrize(
    ("answer", "target", "right"),
    [
        ("lion", "lion", 1),
        (" A lion.", "lion", 1),
        ("Lion", "lion", 1),
        ("lion and tiger", "lion", 0),
        ("", "lion", 0),
        ("Yes, there is one.", "yes", 1),
        ("no", "yes", 0),
        ("three", "3", 1),
        ("13", "3", 0),
        ("top left", "top left", 1),
        ("At the top left", "top left", 0),
        ("red card", "red card", 1),
        # Sentences: F1 over the content words lion, apple, red and card
        (ROW["sentence"], ROW, 1),
        ("I see a lion, apples, and one red card", ROW, 8 / 9),  # "one" is a number
        ("There is a lion and an apple.", ROW, 2 * 2 / (4 + 2)),
        ("lion apple red card tiger wolf", ROW, 2 * 4 / (4 + 6)),
        ("a nice picture", ROW, 0),
        # Boxes
        ("10 20 30 40", BOX, 1),
        ("left 10, top 20, right 30, bottom 40", BOX, 1),
        ("20 20 40 40", BOX, 200 / 600),
        ("50 60 70 80", BOX, 0),
        ("30 40 10 20", BOX, 0),  # right of its own left
        ("10 20 30", BOX, 0),
        ("nowhere", BOX, 0),
    ],
)
def test_scores(answer: str, target: object, right: float) -> None:
    assert score(answer, target) == pytest.approx(right)


def test_the_kind_of_question_decides_what_is_scored() -> None:
    kinds = {kind: target_of(Question(kind, "?", "x", ())) for kind in ("name", "describe", "point")}
    assert kinds == {"name": "x", "describe": {"sentence": "x"}, "point": {"box": "x"}}
