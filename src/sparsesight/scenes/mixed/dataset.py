"""Mixed scenes as a data set: icons, signs, charts, tables and pairs of pictures, in splits that are fixed.

    for example in examples("test"):
        example.images, example.question.text, example.question.answer

A split's name and `VERSION` together define its content exactly. Kinds of pictures come in turn; evaluation splits
have one question of every kind that a picture offers, alternately about something small and something large.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image

from ..questions import Question
from ..scenes import in_proportion
from ..splits import Seeds, choose, in_order, one_of_each_kind
from . import charts, icon_questions, icon_scenes, pairs, signs, tables
from .fonts import HELD_OUT_FACES, KNOWN_FACES
from .packages import check_installed
from .picture import Asked, Picture, Pool
from .things import HELD_OUT, KNOWN
from .words import HELD_OUT_WORDS, KNOWN_WORDS

VERSION = 1  # raised whenever a seed would give another picture or other questions

# kind of picture -> what draws it from a seed, and what asks about it
PICTURES: dict[str, tuple[Callable[[int, Pool], Picture], Callable[[Picture, Pool], Asked]]] = {
    "icons": (icon_scenes.draw, icon_questions.ask),
    "signs": (signs.draw, signs.ask),
    "charts": (charts.draw, charts.ask),
    "tables": (tables.draw, tables.ask),
    "pairs": (pairs.draw, pairs.ask),
}
# kind of question -> its share of the questions of a training picture
SHARES = {
    **dict.fromkeys(("color", "shape", "size", "letter", "where", "which", "both", "more", "only"), 1.0),
    **dict.fromkeys(("exist", "compare", "describe", "point"), 1.3),
    **dict.fromkeys(("count", "neighbor", "name", "read", "value", "extreme"), 1.8),
}

KNOWN_POOL = Pool(KNOWN, KNOWN_WORDS, KNOWN_FACES)
WITH_THINGS, WITH_TEXT = ("icons", "pairs"), ("signs", "charts", "tables")


@dataclass(frozen=True)
class Split(Seeds):
    """Pictures of consecutive seeds, of `kinds` in turn, drawn from `pool`."""

    pool: Pool = KNOWN_POOL
    kinds: tuple[str, ...] = tuple(PICTURES)
    per_scene: int = 0  # questions a picture, or all it offers if fewer; 0 asks one of every kind


NEW_THINGS = Pool(HELD_OUT, KNOWN_WORDS, KNOWN_FACES)
NEW_FONTS = Pool(KNOWN, KNOWN_WORDS, HELD_OUT_FACES)
NEW_WORDS = Pool(KNOWN, HELD_OUT_WORDS, KNOWN_FACES)

SPLITS = {
    split.name: split
    for split in (
        Split("train", 100_000_000, 1_000_000, "for training", per_scene=32),
        Split("val", 120_000_000, 150, "for choices made while training"),
        Split("test", 130_000_000, 300, "the figures that are reported"),
        Split("test-b", 140_000_000, 300, "as test, from other seeds: to check that a result is not luck"),
        Split("new-things", 150_000_000, 120, "things that occur in no other split", NEW_THINGS, WITH_THINGS),
        Split("new-fonts", 160_000_000, 120, "fonts that occur in no other split", NEW_FONTS, WITH_TEXT),
        Split("new-words", 170_000_000, 120, "words that occur in no other split", NEW_WORDS, WITH_TEXT),
    )
}


@dataclass(frozen=True, eq=False)
class Example:
    """A question about a picture; `size` is that of the first element it rests on, "none" if it rests on none."""

    id: str
    picture: Picture
    question: Question
    size: str

    @property
    def images(self) -> tuple[Image.Image, ...]:
        """The picture, or the two pictures to compare; RGB, 336 x 336 pixels each."""
        return self.picture.images

    @property
    def patches(self) -> np.ndarray:
        """The patches that matter: bool [images, GRID, GRID]."""
        return self.picture.patches(self.question)


def examples(split: str, scenes: int | None = None, workers: int = 1) -> Iterator[Example]:
    """The examples of a split in their fixed order, those of one picture together.

    Args:
        split: one of `SPLITS`.
        scenes: number of pictures (pairs count as one), the first ones; default: all.
        workers: processes that render; with 1, this process does.

    Raises:
        SparseSightError: no such split, or it has fewer pictures, or fewer than one worker; or icons or fonts are not
            installed.
    """
    chosen, wanted = choose(SPLITS, split, scenes, workers)
    check_installed()
    return in_order(partial(_examples_of, chosen), wanted, workers)


def picture_of(split: Split, index: int) -> Picture:
    """The picture of an index within a split."""
    draw, _ = PICTURES[split.kinds[index % len(split.kinds)]]
    return draw(split.first_seed + index, split.pool)


def questions(picture: Picture, pool: Pool, n: int) -> list[Question]:
    """The first `n` questions about a picture, all different, or as many as there are."""
    return in_proportion(PICTURES[picture.kind][1](picture, pool), SHARES, picture.seed, n)


def _examples_of(split: Split, index: int) -> list[Example]:
    """All the examples of one picture."""
    picture = picture_of(split, index)
    if split.per_scene:
        asked = questions(picture, split.pool, split.per_scene)
    else:
        kinds = PICTURES[picture.kind][1](picture, split.pool)
        turn = index // len(split.kinds)
        asked = one_of_each_kind(kinds.values(), partial(_size, picture), picture.seed, turn)
    return [
        Example(f"{split.name}/{index:04d}/{number}", picture, question, _size(picture, question))
        for number, question in enumerate(asked)
    ]


def _size(picture: Picture, question: Question) -> str:
    return picture.elements[question.objects[0]].size if question.objects else "none"
