"""Bar charts and line charts with a title, a scale and three to five labelled values."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, permutations

from ..drawing import SIDE, Rng
from ..objects import COLORS, pick, sample
from ..questions import Question, Weighted
from .canvas import Canvas, paper
from .picture import Asked, Element, Picture, Pool
from .wording import box_in_words, point_at
from .words import short

LEFT, TOP, RIGHT, BOTTOM = 48, 56, 326, 292  # of the area that is drawn in, in pixels
TEXT_SIZES = {"small": (14, 15), "large": (18, 19)}  # pixels to the em, both ends included
COUNT = (3, 5)  # values, both ends included
STEP, MOST = 5, 50  # values are multiples of STEP up to MOST
TICK = 10
CLEAR = 10  # values closer than this are not compared
PALE = ("white", "yellow")  # colors that a light ground swallows
AXIS = (60, 60, 60)
GRIDLINE = (205, 205, 205)


def draw(seed: int, pool: Pool) -> Picture:
    """A chart: a line, or bars, half of those with the values written above."""
    rng = Rng(seed)
    kind = ("bar", "point")[rng.randint(2)]
    count = int(rng.randint(COUNT[0], COUNT[1] + 1))
    title, *labels = sample(rng, short(pool.words), count + 1)
    values = [STEP * int(rng.randint(1, MOST // STEP + 1)) for _ in labels]
    size, face = pick(rng, list(TEXT_SIZES)), pick(rng, pool.faces)
    em = int(rng.randint(TEXT_SIZES[size][0], TEXT_SIZES[size][1] + 1))
    colors = sample(rng, [color for color in COLORS if color not in PALE], count)
    written = kind == "bar" and bool(rng.randint(2))
    canvas = Canvas(paper(rng))
    elements: list[Element] = []
    for index, value in enumerate(range(0, MOST + 1, TICK)):
        canvas.stroke((LEFT, _height(value)), (RIGHT, _height(value)), 1, GRIDLINE)
        baseline = _height(value) + em // 3
        box = canvas.write(str(value), face, em, LEFT - 6, baseline, align="right", element=index)
        elements.append(Element("tick", f"tick {value}", box, size, text=str(value), value=value))
    box = canvas.write(title, face, em + 4, SIDE // 2, 28, element=len(elements))
    elements.append(Element("title", title, box, size, text=title))
    pitch = (RIGHT - LEFT) // count
    centers = [LEFT + pitch * place + pitch // 2 for place in range(count)]
    heights = [_height(value) for value in values]
    if kind == "point":
        for start, end in pairwise(zip(centers, heights, strict=True)):
            canvas.stroke(start, end, 4, COLORS[colors[0]])
    for place, (label, value, x, y) in enumerate(zip(labels, values, centers, heights, strict=True)):
        index, color = len(elements), colors[place] if kind == "bar" else colors[0]
        if kind == "bar":
            box = (x - pitch * 3 // 10, y, x + pitch * 3 // 10, BOTTOM)
            canvas.fill(box, COLORS[color], index)
        else:
            box = (x - 6, y - 6, x + 6, y + 6)
            canvas.fill(box, COLORS[color], index)
        elements.append(Element(kind, label, box, size, cell=(place, 0), color=color, value=value))
        if written:
            canvas.write(str(value), face, em, x, box[1] - 4, element=index)
        under = canvas.write(label, face, em, x, BOTTOM + em + 4, element=index + 1)
        elements.append(Element("label", f"label {label}", under, size, cell=(place, 0), text=label))
    canvas.stroke((LEFT, BOTTOM), (RIGHT, BOTTOM), 2, AXIS)
    canvas.stroke((LEFT, TOP), (LEFT, BOTTOM), 2, AXIS)
    images = (canvas.image(rng),)
    return Picture(seed, "charts", images, tuple(elements), (count, 1), canvas.owners(elements)[None])


def _height(value: int) -> int:
    """The row of pixels of a value."""
    return BOTTOM - (BOTTOM - TOP) * value // MOST


def ask(picture: Picture, pool: Pool) -> Asked:
    """All questions about a chart, by kind."""
    elements = picture.elements
    values = [(index, e) for index, e in enumerate(elements) if e.kind in ("bar", "point")]
    bars = [(index, e) for index, e in values if e.kind == "bar"]
    shown = tuple(index for index, _ in values)
    return {
        "color": [
            (1, Question("color", f"What color is the bar of {e.name}?", e.color, (i, i + 1)))
            for i, e in bars
        ],
        "exist": list(ask_exist(values, pool)),
        "count": [(1, Question("count", "How many values does the chart show?", str(len(values)), shown))],
        "compare": list(ask_compare(values)),
        "read": list(ask_title(elements)),
        "value": list(ask_value(elements, values)),
        "extreme": list(ask_extreme(values)),
        "point": [(1, point_at(f"the bar of {e.name}", box_in_words(e.box), i)) for i, e in bars],
    }


Values = Sequence[tuple[int, Element]]


def ask_value(elements: Sequence[Element], values: Values) -> Weighted:
    """The value rests on its bar or point, its label, and the ticks next to its height."""
    for index, element in values:
        near = [i for i, e in enumerate(elements) if e.kind == "tick" and abs(e.value - element.value) < TICK]
        yield (
            1,
            Question(
                "value",
                f"What is the value of {element.name}?",
                str(element.value),
                (index, index + 1, *near),
            ),
        )


def ask_extreme(values: Values) -> Weighted:
    everything = tuple(place for index, _ in values for place in (index, index + 1))
    for word, pick_one in (("highest", max), ("lowest", min)):
        best = pick_one(element.value for _, element in values)
        names = [element.name for _, element in values if element.value == best]
        if len(names) == 1:
            yield 1, Question("extreme", f"Which value is the {word}?", names[0], everything)


def ask_compare(values: Values) -> Weighted:
    for (index, one), (rival, other) in permutations(values, 2):
        if abs(one.value - other.value) >= CLEAR:
            text = f"Is {one.name} higher than {other.name}?"
            answer = "yes" if one.value > other.value else "no"
            yield 1, Question("compare", text, answer, (index, index + 1, rival, rival + 1))


def ask_exist(values: Values, pool: Pool) -> Weighted:
    """As much "yes" as "no"."""
    for index, element in values:
        yield 1 / len(values), Question("exist", _shows(element.name), "yes", (index, index + 1))
    names = {element.name for _, element in values}
    absent = [word for word in short(pool.words) if word not in names]
    for word in absent:
        yield 1 / len(absent), Question("exist", _shows(word), "no", ())


def _shows(word: str) -> str:
    return f"Does the chart show a value for {word}?"


def ask_title(elements: Sequence[Element]) -> Weighted:
    for index, element in enumerate(elements):
        if element.kind == "title":
            yield 1, Question("read", "What is the title of the chart?", element.text, (index,))
