"""A rendered picture, or two, with a record of everything that can be asked about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..questions import Question
from .fonts import Face
from .things import Thing

Asked = dict[
    str, list[tuple[float, Question]]
]  # per kind of question, those that a picture offers and their weights
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels; right and bottom are outside


@dataclass(frozen=True)
class Pool:
    """What pictures are drawn from; a split takes what it may show."""

    things: tuple[Thing, ...]
    words: tuple[str, ...]
    faces: tuple[Face, ...]


@dataclass(frozen=True)
class Element:
    """Something in a picture.

    Attributes:
        kind: "icon", "card", "sign", "bar", "point", "label", "tick", "title" or "number".
        name: what a question calls it, such as "lion", "red card" or a written word.
        box: where it is.
        size: "small" or "large"; "none" where sizes mean nothing.
        picture: which of the pictures it is in, from 0.
        cell: column and row of the layout.
        color, shape: of a card, a sign, a bar, or of the plate behind an icon; "" without.
        text: what is written on it.
        category, code: of an icon.
        value: of a bar, a point, a tick or a number.
    """

    kind: str
    name: str
    box: Box
    size: str = "none"
    picture: int = 0
    cell: tuple[int, int] = (0, 0)
    color: str = ""
    shape: str = ""
    text: str = ""
    category: str = ""
    code: str = ""
    value: int = 0

    @property
    def center(self) -> tuple[float, float]:
        """The middle in pixels, (x, y)."""
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2


@dataclass(frozen=True, eq=False)
class Picture:
    """What a seed gives.

    Attributes:
        seed: of the random numbers.
        kind: of `dataset.PICTURES`.
        images: RGB, 336 x 336 pixels each; two for a comparison.
        elements: what is in them.
        layout: columns and rows of its cells.
        owner: the index of the element that owns each patch, or -1: int64 [images, GRID, GRID].
    """

    seed: int
    kind: str
    images: tuple[Image.Image, ...]
    elements: tuple[Element, ...]
    layout: tuple[int, int]
    owner: np.ndarray

    def patches(self, question: Question) -> np.ndarray:
        """The patches that matter to a question: bool [images, GRID, GRID]; none where nothing is shown."""
        return np.isin(self.owner, question.objects)


def unique(elements: Sequence[Element], *kinds: str) -> list[tuple[int, Element, str]]:
    """The elements of these kinds whose name means no other element, with their index and their name."""
    names = [element.name for element in elements]
    return [
        (index, element, element.name)
        for index, element in enumerate(elements)
        if element.kind in kinds and names.count(element.name) == 1
    ]
