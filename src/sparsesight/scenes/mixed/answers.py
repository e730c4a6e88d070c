"""How right an answer is: by its words, by the things that a sentence names, or by the overlap of boxes."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from ..objects import COLORS
from ..questions import Question
from .things import NAMES
from .words import WORDS

ARTICLES = frozenset({"a", "an", "the"})
NUMBERS = {word: number for number, word in enumerate(["zero", "one", "two", "three", "four", "five", "six"])}
# Words that are content in a sentence about a picture; numbers are as well.
CONTENT = NAMES | {*WORDS, *COLORS, "card"}


def target_of(question: Question) -> Any:
    """What an answer is scored by, JSON-ready: a text, ``{"sentence": ...}`` or ``{"box": ...}``."""
    if question.kind == "describe":
        return {"sentence": question.answer}
    if question.kind == "point":
        return {"box": question.answer}
    return question.answer


def score(answer: str, target: Any) -> float:
    """How right an answer is, 0 to 1.

    A text is right or wrong: the same words but for case, articles and punctuation; for "yes" and "no" the first word
    counts. A sentence has the F1 of its content words, a box the intersection over union with the right one.

    Args:
        answer: what the model said.
        target: see `target_of`.
    """
    if isinstance(target, dict):
        return named(answer, target["sentence"]) if "sentence" in target else overlap(answer, target["box"])
    said, wanted = words_of(answer), words_of(target)
    if wanted in (["yes"], ["no"]):
        said = said[:1]
    return float(said == wanted)


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, numbers as digits, without articles."""
    found = re.findall(r"[a-z]+|\d+", text.lower())
    return [str(NUMBERS.get(word, word)) for word in found if word not in ARTICLES]


def named(answer: str, sentence: str) -> float:
    """F1 of the content words of an answer: those of the sentence that it has, and that it has no others."""
    wanted, said = Counter(_content(sentence)), Counter(_content(answer))
    shared = (wanted & said).total()
    return 2 * shared / (wanted.total() + said.total()) if shared else 0.0


def _content(text: str) -> list[str]:
    singular = (word[:-1] if word.endswith("s") and word[:-1] in CONTENT else word for word in words_of(text))
    return [word for word in singular if word in CONTENT or word.isdigit()]


def overlap(answer: str, box: str) -> float:
    """Intersection over union of the box that an answer gives and the right one; 0 without four numbers."""
    numbers = [float(x) for x in re.findall(r"\d+(?:\.\d+)?", answer)]
    if len(numbers) != 4:
        return 0.0
    left, top, right, bottom = numbers
    wleft, wtop, wright, wbottom = (float(x) for x in box.split())
    shared = max(0.0, min(right, wright) - max(left, wleft)) * max(0.0, min(bottom, wbottom) - max(top, wtop))
    union = max(0.0, right - left) * max(0.0, bottom - top) + (wright - wleft) * (wbottom - wtop) - shared
    return shared / union
