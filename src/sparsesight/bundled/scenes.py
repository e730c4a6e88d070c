"""Rendered scenes and questions about them, from a seed.

A scene is a square picture divided into 7 x 7 cells. Each of its four to nine objects lies in a cell of its
own and has a shape, a colour and a size; a card also carries a letter. Every question is put together from
objects, so its answer is known exactly, and so are the objects that the answer rests on. The bundled model
was trained on this distribution: it answers worse where a number here is changed.

Random numbers come from `numpy.random.RandomState`, whose streams numpy promised never to change; those of
its successor, `Generator`, may. So a seed gives the same pixels for as long as Pillow draws the same.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TypeVar

import numpy as np
from PIL import Image

from .drawing import SIDE, background, letter_stencil, stencil

Rng = np.random.RandomState
T = TypeVar("T")

PATCH = 14  # pixels along a patch of the vision tower
GRID = SIDE // PATCH  # patches along a picture
CELLS = 7  # cells along a picture
CELL = SIDE // CELLS  # pixels along a cell

COLORS = {
    "red": (215, 40, 40),
    "green": (40, 160, 60),
    "blue": (45, 80, 215),
    "yellow": (235, 215, 50),
    "purple": (140, 50, 170),
    "orange": (240, 135, 30),
    "cyan": (60, 205, 215),
    "white": (240, 240, 240),
}
PLAIN_SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "diamond", "heart")
SHAPES = (*PLAIN_SHAPES, "card")
SIZES = {"small": (24, 26, 28), "large": (40, 42, 44)}  # the pixel extents of each size
LETTERS = "ABCEFHKLMNPRSTXZ"
DIRECTIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}  # y grows down

MAX_CARDS = 3
MAX_COUNT = 5  # the largest number that the model knows a word for
COMPARE_GAP = 24  # pixels; objects closer than this along an axis are not compared along it
WHERE_GAP = 14  # pixels; objects closer than this to a middle line are not asked for by quadrant
OWNED_PIXELS = 20  # a patch of 196 pixels belongs to an object that covers at least this many of them


@dataclass(frozen=True)
class SceneObject:
    """One object: what it is, and the square of `extent` pixels at (`left`, `top`) that it is drawn into."""

    shape: str
    color: str
    size: str
    letter: str  # one of LETTERS on a card, "" on everything else
    cell: tuple[int, int]  # column, row
    left: int
    top: int
    extent: int

    @property
    def center(self) -> tuple[float, float]:
        """The middle of the object in pixels, (x, y)."""
        return self.left + self.extent / 2, self.top + self.extent / 2

    @property
    def name(self) -> str:
        """What a question calls the object, such as "red circle"."""
        return f"{self.color} {self.shape}"


Objects = Sequence[SceneObject]


@dataclass(frozen=True)
class Question:
    """A question, its only right answer, and the indices of the objects that show it."""

    kind: str
    text: str
    answer: str
    objects: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Scene:
    """A rendered scene; `owner` [GRID, GRID] is the index of the object that owns each patch, or -1."""

    seed: int
    objects: tuple[SceneObject, ...]
    image: Image.Image
    owner: np.ndarray


def render(seed: int) -> Scene:
    """The scene of a seed (0 to 2**32 - 1): the same objects and the same pixels every time."""
    rng = Rng(seed)
    objects = _arrange(rng)
    return Scene(seed, objects, _paint(objects, rng), _owners(objects))


def questions(scene: Scene, n: int) -> list[Question]:
    """The first `n` questions of a scene, all different; a larger `n` only adds to the list.

    Raises `ValueError` if the scene has fewer questions than `n`.
    """
    rng = Rng([scene.seed, 1])  # a stream of its own, so that painting and asking cannot disturb each other
    left = {kind: list(ask(scene.objects)) for kind, (_, ask) in KINDS.items()}
    asked: list[Question] = []
    while len(asked) < n:
        kinds = [kind for kind in left if left[kind]]
        if not kinds:
            raise ValueError(f"scene {scene.seed} has only {len(asked)} questions, not {n}")
        kind = kinds[_draw(rng, [KINDS[kind][0] for kind in kinds])]
        _, question = left[kind].pop(_draw(rng, [weight for weight, _ in left[kind]]))
        asked.append(question)
    return asked


def _draw(rng: Rng, weights: Sequence[float]) -> int:
    """An index, drawn in proportion to the weights."""
    sums = np.cumsum(weights)
    return int(np.searchsorted(sums[:-1], rng.random_sample() * sums[-1], side="right"))


# Arranging


def _pick(rng: Rng, options: Sequence[T]) -> T:
    return options[rng.randint(len(options))]


def _sample(rng: Rng, options: Sequence[T], n: int) -> list[T]:
    return [options[i] for i in rng.permutation(len(options))[:n]]


def _arrange(rng: Rng) -> tuple[SceneObject, ...]:
    """Four to nine objects in different cells; half the scenes use few colours and shapes, for counting."""
    wanted = rng.randint(4, 10)
    repeats = rng.random_sample() < 0.5
    colors = _sample(rng, list(COLORS), 3 if repeats else len(COLORS))
    shapes = _sample(rng, PLAIN_SHAPES, 4 if repeats else len(PLAIN_SHAPES))
    objects: list[SceneObject] = []
    for _ in range(wanted):
        cell = _free_cell(objects, rng)
        if cell is None:
            continue
        cards = sum(placed.shape == "card" for placed in objects)
        if cards < MAX_CARDS and rng.random_sample() < 0.22:
            shape, color, size, letter = "card", _pick(rng, list(COLORS)), "large", _pick(rng, LETTERS)
        else:
            shape, color, size, letter = _pick(rng, shapes), _pick(rng, colors), _pick(rng, list(SIZES)), ""
        extent = _pick(rng, SIZES[size])
        left, top = (CELL * index + rng.randint(CELL - extent + 1) for index in cell)
        objects.append(SceneObject(shape, color, size, letter, cell, left, top, extent))
    return tuple(objects)


def _free_cell(objects: Objects, rng: Rng) -> tuple[int, int] | None:
    """An empty cell, half the time beside an object, as neighbours would be rare; None if none is hit."""
    taken = {placed.cell for placed in objects}
    for _ in range(20):
        if objects and rng.random_sample() < 0.5:
            (column, row), (dx, dy) = _pick(rng, objects).cell, _pick(rng, list(DIRECTIONS.values()))
            cell = column + dx, row + dy
        else:
            cell = rng.randint(CELLS), rng.randint(CELLS)
        if cell not in taken and all(0 <= index < CELLS for index in cell):
            return cell
    return None


# Painting


def _paint(objects: Objects, rng: Rng) -> Image.Image:
    canvas = background(rng)
    for item in objects:
        red, green, blue = (channel + rng.randint(-14, 15) for channel in COLORS[item.color])
        fill = (min(red, 255), min(green, 255), min(blue, 255))
        canvas.paste(fill, (item.left, item.top), stencil(item.shape, item.extent))
        if item.letter:
            ink = letter_stencil(item.letter)
            margin = (item.extent - ink.width) // 2
            canvas.paste((15, 15, 15), (item.left + margin, item.top + margin), ink)
    grain = rng.randint(-6, 7, size=(SIDE, SIDE, 1))
    return Image.fromarray(np.clip(np.asarray(canvas, np.int64) + grain, 0, 255).astype(np.uint8))


def _owners(objects: Objects) -> np.ndarray:
    """Which object owns each patch: the one that covers most of it, but always the one centred in it."""
    covered = np.zeros((len(objects), SIDE, SIDE), dtype=bool)
    for index, item in enumerate(objects):
        solid = np.asarray(stencil(item.shape, item.extent)) > 127
        covered[index, item.top : item.top + item.extent, item.left : item.left + item.extent] = solid
    pixels = covered.reshape(len(objects), GRID, PATCH, GRID, PATCH).sum(axis=(2, 4))
    owner = np.where(pixels.max(axis=0) >= OWNED_PIXELS, pixels.argmax(axis=0), -1)
    for index, item in enumerate(objects):
        x, y = item.center
        owner[int(y) // PATCH, int(x) // PATCH] = index  # a ring is hollow where it is centred
    return owner


# Asking: each function yields every unambiguous question of its kind, with its weight among them

Weighted = Iterator[tuple[float, Question]]


def _indices(values: Sequence[str], wanted: str) -> tuple[int, ...]:
    return tuple(index for index, value in enumerate(values) if value == wanted)


def _unique(objects: Objects, value: Callable[[SceneObject], str]) -> list[tuple[int, SceneObject]]:
    """The objects, with their indices, whose value no other object shares."""
    values = [value(item) for item in objects]
    return [(index, item) for index, item in enumerate(objects) if values.count(values[index]) == 1]


def _ask_color(objects: Objects) -> Weighted:
    for index, item in _unique(objects, lambda one: one.shape):
        yield 1, Question("color", f"What color is the {item.shape}?", item.color, (index,))


def _ask_shape(objects: Objects) -> Weighted:
    for index, item in _unique(objects, lambda one: one.color):
        yield 1, Question("shape", f"What shape is the {item.color} object?", item.shape, (index,))


def _ask_exist(objects: Objects) -> Weighted:
    """As much "yes" as "no"; most absent names mix a colour and a shape that are there, on other objects."""
    names = [item.name for item in objects]
    mixed = Counter(f"{one.color} {other.shape}" for one in objects for other in objects)
    absent = {
        name: 0.8 * mixed[name] / mixed.total() + 0.2 / (len(COLORS) * len(SHAPES))
        for name in (f"{color} {shape}" for color in COLORS for shape in SHAPES)
        if name not in names
    }
    for name, times in Counter(names).items():
        yield times / len(names), Question("exist", f"Is there a {name}?", "yes", _indices(names, name))
    for name, weight in absent.items():
        yield weight / sum(absent.values()), Question("exist", f"Is there a {name}?", "no", ())


def _ask_count(objects: Objects) -> Weighted:
    """By shape and by colour alike; zero has a fixed share, and larger counts, being rarer, weigh more."""
    plurals = {shape: "crosses" if shape == "cross" else f"{shape}s" for shape in SHAPES}
    by_shape = [item.shape for item in objects], plurals
    by_color = [item.color for item in objects], {color: f"{color} objects" for color in COLORS}
    for values, phrases in (by_shape, by_color):
        present = {value: 3.0 ** min(times, 4) for value, times in Counter(values).items()}
        for value, phrase in phrases.items():
            shown = _indices(values, value)
            if len(shown) <= MAX_COUNT:
                zero = 0.15 / (len(phrases) - len(present) or 1)
                weight = 0.85 * present[value] / sum(present.values()) if shown else zero
                yield weight, Question("count", f"How many {phrase} are there?", str(len(shown)), shown)


def _ask_neighbor(objects: Objects) -> Weighted:
    cells = {item.cell: index for index, item in enumerate(objects)}
    for index, item in _unique(objects, lambda one: one.name):
        for direction, (dx, dy) in DIRECTIONS.items():
            other = cells.get((item.cell[0] + dx, item.cell[1] + dy))
            if other is not None:
                text = f"What is {direction} the {item.name}?"
                yield 1, Question("neighbor", text, objects[other].name, (index, other))


def _ask_letter(objects: Objects) -> Weighted:
    for index, item in _unique(objects, lambda one: one.name):
        if item.letter:
            yield 1, Question("letter", f"What letter is on the {item.color} card?", item.letter, (index,))


def _ask_compare(objects: Objects) -> Weighted:
    for (index, item), (other_index, other) in permutations(_unique(objects, lambda one: one.name), 2):
        for direction, (dx, dy) in DIRECTIONS.items():
            ahead = (item.center[0] - other.center[0]) * dx + (item.center[1] - other.center[1]) * dy
            if abs(ahead) >= COMPARE_GAP:
                text = f"Is the {item.name} {direction} the {other.name}?"
                yield 1, Question("compare", text, "yes" if ahead > 0 else "no", (index, other_index))


def _ask_size(objects: Objects) -> Weighted:
    for index, item in _unique(objects, lambda one: one.name):
        if item.shape != "card":  # every card is large
            yield 1, Question("size", f"What size is the {item.name}?", item.size, (index,))


def _ask_where(objects: Objects) -> Weighted:
    for index, item in _unique(objects, lambda one: one.name):
        x, y = item.center
        if min(abs(x - SIDE / 2), abs(y - SIDE / 2)) > WHERE_GAP:
            answer = f"{'top' if y < SIDE / 2 else 'bottom'} {'left' if x < SIDE / 2 else 'right'}"
            yield 1, Question("where", f"Where is the {item.name}?", answer, (index,))


# kind -> its share of the questions, and what asks it
KINDS: dict[str, tuple[float, Callable[[Objects], Weighted]]] = {
    "color": (1.2, _ask_color),
    "shape": (1.2, _ask_shape),
    "exist": (1.3, _ask_exist),
    "count": (1.6, _ask_count),
    "neighbor": (2.0, _ask_neighbor),
    "letter": (1.2, _ask_letter),
    "compare": (1.2, _ask_compare),
    "size": (0.8, _ask_size),
    "where": (1.0, _ask_where),
}
