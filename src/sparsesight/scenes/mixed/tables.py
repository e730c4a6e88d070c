"""Tables of numbers with a heading for every column and a word for every row."""

from __future__ import annotations

from itertools import permutations

from ..drawing import Rng
from ..objects import pick, sample
from ..questions import Question, Weighted
from .canvas import Canvas, paper
from .picture import Asked, Element, Picture, Pool
from .wording import box_in_words, point_at
from .words import short

LEFT, TOP, RIGHT = 12, 20, 324  # of the table, in pixels
TEXT_SIZES = {"small": (15, 17), "large": (20, 22)}  # pixels to the em, both ends included
COLUMNS, ROWS = (2, 3), (3, 6)  # of numbers, both ends included
NUMBERS = (10, 100)  # the upper end is excluded
RULE = (120, 120, 120)
BAND = (200, 208, 222)  # behind the headings


def draw(seed: int, pool: Pool) -> Picture:
    """A table with ruled lines."""
    rng = Rng(seed)
    columns, rows = (int(rng.randint(low, high + 1)) for low, high in (COLUMNS, ROWS))
    words = sample(rng, short(pool.words), columns + rows)
    headings, labels = words[:columns], words[columns:]
    size, face = pick(rng, list(TEXT_SIZES)), pick(rng, pool.faces)
    em = int(rng.randint(TEXT_SIZES[size][0], TEXT_SIZES[size][1] + 1))
    pitch, height = (RIGHT - LEFT) // (columns + 1), 2 * em + 2
    bottom = TOP + height * (rows + 1)
    canvas = Canvas(paper(rng))
    elements: list[Element] = []
    canvas.fill((LEFT, TOP, RIGHT, TOP + height), BAND)
    for row in range(rows + 2):
        canvas.stroke((LEFT, TOP + row * height), (RIGHT, TOP + row * height), 1, RULE)
    canvas.stroke((LEFT + pitch, TOP), (LEFT + pitch, bottom), 1, RULE)
    for row in range(rows + 1):
        for column in range(columns + 1):
            if not row and not column:
                continue
            value = int(rng.randint(*NUMBERS)) if row and column else 0
            kind = "heading" if not row else "number" if column else "label"
            text = str(value) if row and column else headings[column - 1] if not row else labels[row - 1]
            x, baseline = LEFT + pitch * column + pitch // 2, TOP + row * height + height // 2 + em // 3
            box = canvas.write(text, face, em, x, baseline, element=len(elements))
            elements.append(Element(kind, text, box, size, cell=(column, row), text=text, value=value))
    images, layout = (canvas.image(rng),), (columns + 1, rows + 1)
    return Picture(seed, "tables", images, tuple(elements), layout, canvas.owners(elements)[None])


def ask(picture: Picture, pool: Pool) -> Asked:
    """All questions about a table, by kind."""
    words = [(i, e) for i, e in enumerate(picture.elements) if e.kind in ("heading", "label")]
    labels = tuple(index for index, e in words if e.kind == "label")
    return {
        "exist": list(ask_exist(picture, pool)),
        "count": [(1, Question("count", "How many rows of numbers are there?", str(len(labels)), labels))],
        "compare": list(ask_compare(picture)),
        "read": list(ask_read(picture)),
        "value": list(ask_value(picture)),
        "extreme": list(ask_extreme(picture)),
        "point": [(1, point_at(f'the word "{e.name}"', box_in_words(e.box), i)) for i, e in words],
    }


def _at(picture: Picture) -> dict[tuple[int, int], int]:
    """The index of the element in each cell."""
    return {element.cell: index for index, element in enumerate(picture.elements)}


def ask_value(picture: Picture) -> Weighted:
    at, elements = _at(picture), picture.elements
    for index, element in enumerate(elements):
        if element.kind == "number":
            column, row = element.cell
            heading, label = at[column, 0], at[0, row]
            text = f"What is the number in row {elements[label].name}, column {elements[heading].name}?"
            yield 1, Question("value", text, element.text, (index, heading, label))


def ask_extreme(picture: Picture) -> Weighted:
    at, elements = _at(picture), picture.elements
    columns, rows = picture.layout
    for column in range(1, columns):
        numbers = {row: elements[at[column, row]].value for row in range(1, rows)}
        rests_on = (at[column, 0], *(at[where, row] for row in numbers for where in (0, column)))
        for word, pick_one in (("largest", max), ("smallest", min)):
            best = pick_one(numbers.values())
            found = [row for row, value in numbers.items() if value == best]
            if len(found) == 1:
                text = f"Which row has the {word} number in column {elements[at[column, 0]].name}?"
                yield 1, Question("extreme", text, elements[at[0, found[0]]].name, rests_on)


def ask_compare(picture: Picture) -> Weighted:
    at, elements = _at(picture), picture.elements
    columns, rows = picture.layout
    for column in range(1, columns):
        heading = at[column, 0]
        for row, other in permutations(range(1, rows), 2):
            one, rival = at[column, row], at[column, other]
            if elements[one].value != elements[rival].value:
                whose = [elements[at[0, place]].name for place in (row, other)]
                text = f"Is {whose[0]} larger than {whose[1]} in column {elements[heading].name}?"
                answer = "yes" if elements[one].value > elements[rival].value else "no"
                yield 1, Question("compare", text, answer, (one, rival, heading, at[0, row], at[0, other]))


def ask_read(picture: Picture) -> Weighted:
    """Headings and labels by their place."""
    at, (columns, rows) = _at(picture), picture.layout
    for cell, phrase in (
        ((1, 0), "heading of the first column of numbers"),
        ((columns - 1, 0), "heading of the last column"),
        ((0, 1), "first word of the first row of numbers"),
        ((0, rows - 1), "first word of the last row"),
    ):
        index = at[cell]
        yield 1, Question("read", f"What is the {phrase}?", picture.elements[index].text, (index,))


def ask_exist(picture: Picture, pool: Pool) -> Weighted:
    """As much "yes" as "no"."""
    labels = [(index, e) for index, e in enumerate(picture.elements) if e.kind == "label"]
    for index, element in labels:
        yield 1 / len(labels), Question("exist", _has(element.name), "yes", (index,))
    there = {element.name for element in picture.elements}
    absent = [word for word in short(pool.words) if word not in there]
    for word in absent:
        yield 1 / len(absent), Question("exist", _has(word), "no", ())


def _has(word: str) -> str:
    return f"Is there a row for {word}?"
