"""Signs with a word or a number on them: pictures to read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..drawing import SIDE, Rng, background
from ..objects import COLORS, pick, sample
from ..questions import Question, Weighted, compare, where
from .canvas import INK, Canvas
from .fonts import Face, line
from .picture import Asked, Box, Element, Picture, Pool, unique
from .wording import box_in_words, in_a_row, place_of, point_at, shows

COLUMNS, ROWS = 2, 3
TEXT_SIZES = {"small": (17, 20), "large": (28, 34)}  # pixels to the em, both ends included
COUNT = (3, 6)  # signs, both ends included
NUMBERS = (10, 10_000)  # the upper end is excluded
MARGIN = 9  # pixels around the ink
WHITE = (245, 245, 245)
DARK = ("red", "green", "blue", "purple")  # colors that are written on in white


def draw(seed: int, pool: Pool) -> Picture:
    """Three to six signs on a textured ground."""
    rng = Rng(seed)
    places = [(int(p % COLUMNS), int(p // COLUMNS)) for p in rng.permutation(COLUMNS * ROWS)]
    count = int(rng.randint(COUNT[0], COUNT[1] + 1))
    words, colors = sample(rng, pool.words, count), sample(rng, list(COLORS), count)
    canvas = Canvas(background(rng))
    elements: list[Element] = []
    for index, cell in enumerate(places[:count]):
        text = str(rng.randint(*NUMBERS)) if rng.random_sample() < 0.3 else words[index]
        size, face = pick(rng, list(TEXT_SIZES)), pick(rng, pool.faces)
        em = int(rng.randint(TEXT_SIZES[size][0], TEXT_SIZES[size][1] + 1))
        box = _place(rng, text, face, em, cell)
        kind, color = ("number" if text.isdigit() else "sign"), colors[index]
        element = Element(kind, text, box, size, cell=cell, color=color, shape="sign", text=text)
        _paint(rng, canvas, element, face, em, index)
        elements.append(element)
    images = (canvas.image(rng),)
    return Picture(seed, "signs", images, tuple(elements), (COLUMNS, ROWS), canvas.owners(elements)[None])


def _place(rng: Rng, text: str, face: Face, em: int, cell: tuple[int, int]) -> Box:
    """A box around the text somewhere in its cell."""
    ink = line(text, face, em).coverage
    height, width = ink.shape[0] + 2 * MARGIN, min(ink.shape[1] + 2 * MARGIN, SIDE // COLUMNS)
    left, top = (
        pitch * index + int(rng.randint(pitch - extent + 1))
        for pitch, index, extent in zip((SIDE // COLUMNS, SIDE // ROWS), cell, (width, height), strict=True)
    )
    return left, top, left + width, top + height


def _paint(rng: Rng, canvas: Canvas, element: Element, face: Face, em: int, index: int) -> None:
    red, green, blue = (value + int(rng.randint(-14, 15)) for value in COLORS[element.color])
    canvas.fill(element.box, (red, green, blue), index)
    left, top, right, _ = element.box
    ink = WHITE if element.color in DARK else INK
    canvas.write(
        element.text,
        face,
        em,
        (left + right) // 2,
        top + MARGIN + line(element.text, face, em).rise,
        color=ink,
    )


def ask(picture: Picture, pool: Pool) -> Asked:
    """All questions about a picture of signs, by kind."""
    elements = picture.elements
    named = unique(elements, "sign", "number")
    quoted = [(index, e, f'sign "{name}"') for index, e, name in named]
    return {
        "color": [(1, Question("color", f"What color is the {n}?", e.color, (i,))) for i, e, n in quoted],
        "where": list(where(quoted)),
        "exist": list(ask_exist(elements, pool)),
        "count": list(ask_count(elements)),
        "compare": list(compare(quoted)),
        "read": list(ask_read(picture)),
        "describe": list(ask_describe(picture)),
        "point": [(1, point_at(f"the {n}", box_in_words(e.box), i)) for i, e, n in quoted],
    }


def ask_read(picture: Picture) -> Weighted:
    """By the colour of the sign, which no other has, and by its place."""
    for index, element in enumerate(picture.elements):
        for whose in (f"on the {element.color} sign", place_of(element.cell, picture.layout)):
            yield 1, Question("read", f"What is written {whose}?", element.text, (index,))


def ask_exist(elements: Sequence[Element], pool: Pool) -> Weighted:
    """As much "yes" as "no"; half of the absent words begin like one that is there."""
    words = [(index, e.name) for index, e in enumerate(elements) if e.kind == "sign"]
    for index, word in words:
        yield 1 / len(words), Question("exist", _says(word), "yes", (index,))
    there = {word for _, word in words}
    absent = [word for word in pool.words if word not in there]
    begins = {word[:2] for word in there}
    near = sum(word[:2] in begins for word in absent)
    for word in absent:
        share = 0.5 / near if word[:2] in begins else (0.5 if near else 1) / (len(absent) - near)
        yield share, Question("exist", _says(word), "no", ())


def _says(word: str) -> str:
    return f'Is there a sign "{word}" in the picture?'


def ask_count(elements: Sequence[Element]) -> Weighted:
    kinds = Counter(element.kind for element in elements)
    for kind, phrase in (("number", "signs show a number"), ("sign", "signs show a word")):
        if kinds[kind] <= 5:
            them = tuple(index for index, e in enumerate(elements) if e.kind == kind)
            yield 1, Question("count", f"How many {phrase}?", str(len(them)), them)


def ask_describe(picture: Picture) -> Weighted:
    """What a row says, in a sentence."""
    for row, phrase in in_a_row(picture.layout[1]):
        shown = sorted((e.cell[0], index) for index, e in enumerate(picture.elements) if e.cell[1] == row)
        indices = tuple(index for _, index in shown)
        if indices:
            sentence = shows(phrase, [picture.elements[index].text for index in indices], "says")
            yield 1, Question("describe", f"Describe the {phrase} in a sentence.", sentence, indices)
