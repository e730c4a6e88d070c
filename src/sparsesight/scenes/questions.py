"""Questions of nine kinds about a scene, built from its objects, so that the answers are exact.

Every function yields all the unambiguous questions of its kind, with each one's weight among them.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Protocol

from .drawing import SIDE
from .objects import COLORS, SHAPES, Objects, SceneObject

DIRECTIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}  # y grows down

MAX_COUNT = 5  # the largest number that the model knows a word for
COMPARE_GAP = 24  # pixels; objects closer than this along an axis are not compared along it
WHERE_GAP = 14  # pixels; objects closer than this to a middle line are not asked for by quadrant


@dataclass(frozen=True)
class Question:
    """A question, its only right answer, and the indices of the objects that show it."""

    kind: str
    text: str
    answer: str
    objects: tuple[int, ...]


class Located(Protocol):
    """Whatever has a place in a picture."""

    @property
    def center(self) -> tuple[float, float]: ...

    @property
    def cell(self) -> tuple[int, int]: ...

    @property
    def name(self) -> str: ...


Weighted = Iterator[tuple[float, Question]]
Named = Sequence[tuple[int, Located, str]]  # an object's index, the object, and what a question calls it
Value = Callable[[SceneObject], str]


def _indices(values: list[str], wanted: str) -> tuple[int, ...]:
    return tuple(index for index, value in enumerate(values) if value == wanted)


def _named(objects: Objects, *names: Value) -> list[tuple[int, SceneObject, str]]:
    """The objects that one of the names means and no other object, each under the first name that does.

    Only those with a distractor: some other object has the same colour or the same shape.
    """
    values = [[name(item) for item in objects] for name in names]
    colors = Counter(item.color for item in objects)
    shapes = Counter(item.shape for item in objects)
    found = []
    for index, item in enumerate(objects):
        if colors[item.color] > 1 or shapes[item.shape] > 1:
            only = [column[index] for column in values if column.count(column[index]) == 1]
            if only:
                found.append((index, item, only[0]))
    return found


def _name(item: SceneObject) -> str:
    return item.name


def ask_color(objects: Objects) -> Weighted:
    for index, item, name in _named(objects, lambda one: one.shape, lambda one: f"{one.size} {one.shape}"):
        yield 1, Question("color", f"What color is the {name}?", item.color, (index,))


def ask_shape(objects: Objects) -> Weighted:
    for index, item, name in _named(objects, lambda one: one.color, lambda one: f"{one.size} {one.color}"):
        yield 1, Question("shape", f"What shape is the {name} object?", item.shape, (index,))


def ask_size(objects: Objects) -> Weighted:
    for index, item, name in _named(objects, _name):
        yield 1, Question("size", f"What size is the {name}?", item.size, (index,))


def ask_letter(objects: Objects) -> Weighted:
    for index, item, name in _named(objects, _name):
        if item.letter:
            yield 1, Question("letter", f"What letter is on the {name}?", item.letter, (index,))


def ask_where(objects: Objects) -> Weighted:
    return where(_named(objects, _name))


def where(named: Named) -> Weighted:
    """The quadrant of each object that is clear of the middle lines."""
    for index, item, name in named:
        x, y = item.center
        if min(abs(x - SIDE / 2), abs(y - SIDE / 2)) > WHERE_GAP:
            answer = f"{'top' if y < SIDE / 2 else 'bottom'} {'left' if x < SIDE / 2 else 'right'}"
            yield 1, Question("where", f"Where is the {name}?", answer, (index,))


def ask_exist(objects: Objects) -> Weighted:
    """As much "yes" as "no"; most absent names mix a colour and a shape that are there, on other objects."""
    names = [item.name for item in objects]
    mixed = Counter(f"{one.color} {other.shape}" for one in objects for other in objects)
    absent = {
        name: 0.8 * mixed[name] / mixed.total() + 0.2 / (len(COLORS) * len(SHAPES))
        for name in (f"{color} {shape}" for color in COLORS for shape in SHAPES)
        if name not in names
    }
    for name, times in Counter(names).items():
        yield times / len(names), Question("exist", is_there(name), "yes", _indices(names, name))
    for name, weight in absent.items():
        yield weight / sum(absent.values()), Question("exist", is_there(name), "no", ())


def is_there(name: str) -> str:
    return f"Is there {'an' if name[0] in 'aeiou' else 'a'} {name}?"


def plural(shape: str) -> str:
    return "crosses" if shape == "cross" else f"{shape}s"


def ask_count(objects: Objects) -> Weighted:
    """By shape and by colour alike; every number that the scene offers is as likely as every other."""
    by_shape = [item.shape for item in objects], {shape: plural(shape) for shape in SHAPES}
    by_color = [item.color for item in objects], {color: f"{color} objects" for color in COLORS}
    for values, phrases in (by_shape, by_color):
        shown = {value: _indices(values, value) for value in phrases}
        rivals = Counter(len(indices) for indices in shown.values())
        for value, phrase in phrases.items():
            number = len(shown[value])
            if number <= MAX_COUNT:
                text = f"How many {phrase} are there?"
                yield 1 / rivals[number], Question("count", text, str(number), shown[value])


def neighbors(objects: Sequence[Located]) -> Iterator[tuple[str, int, int]]:
    """All (direction, a, b) such that object b lies in the next cell in that direction from object a."""
    cells = {item.cell: index for index, item in enumerate(objects)}
    for index, item in enumerate(objects):
        for direction, (dx, dy) in DIRECTIONS.items():
            other = cells.get((item.cell[0] + dx, item.cell[1] + dy))
            if other is not None:
                yield direction, index, other


def ask_neighbor(objects: Objects) -> Weighted:
    return neighbor(objects, _named(objects, _name))


def neighbor(objects: Sequence[Located], named: Named) -> Weighted:
    """What lies next to each named object, in each direction in which there is something."""
    names = {index: name for index, _, name in named}
    for direction, index, other in neighbors(objects):
        if index in names:
            text = f"What is {direction} the {names[index]}?"
            yield 1, Question("neighbor", text, objects[other].name, (index, other))


def ask_compare(objects: Objects) -> Weighted:
    return compare(_named(objects, _name))


def compare(named: Named) -> Weighted:
    """Whether one object lies in a direction from another, for pairs that are clearly apart along it."""
    for (index, item, name), (rival, other, other_name) in permutations(named, 2):
        for direction, (dx, dy) in DIRECTIONS.items():
            ahead = (item.center[0] - other.center[0]) * dx + (item.center[1] - other.center[1]) * dy
            if abs(ahead) >= COMPARE_GAP:
                text = f"Is the {name} {direction} the {other_name}?"
                yield 1, Question("compare", text, "yes" if ahead > 0 else "no", (index, rival))


# kind -> its share of the questions, and what asks it
KINDS: dict[str, tuple[float, Callable[[Objects], Weighted]]] = {
    "color": (1.0, ask_color),
    "shape": (1.0, ask_shape),
    "size": (1.0, ask_size),
    "letter": (1.0, ask_letter),
    "where": (1.0, ask_where),
    "exist": (1.3, ask_exist),
    "count": (1.8, ask_count),
    "neighbor": (1.8, ask_neighbor),
    "compare": (1.3, ask_compare),
}
SINGLE_OBJECT = ("color", "shape", "size", "letter", "where")  # the kinds that ask about one object
