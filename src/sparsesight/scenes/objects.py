"""The objects of a scene, and their layout.

A scene is a square picture of 5 x 5 cells. Its 12 to 20 objects lie in cells of their own; each has a shape,
a colour and a size, and a card also carries a letter. Together they own at least 40 % of the patches.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from .drawing import COVERED, SIDE, Rng, stencil
from .drawing import LETTERS as LETTER_STROKES

T = TypeVar("T")

PATCH = 14  # pixels along a patch of the vision tower
GRID = SIDE // PATCH  # patches along a picture
CELLS = 5  # cells along a picture
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
LETTERS = "".join(LETTER_STROKES)
SIZES = ("small", "large")

MAX_CARDS = 4
OWNED_PIXELS = 20  # a patch of 196 pixels belongs to an object that covers at least this many of them
FOREGROUND = 0.4  # the share of patches that objects own, at least


@dataclass(frozen=True)
class Recipe:
    """What kind of scenes to draw. Training is on the default; a model answers worse elsewhere."""

    objects: tuple[int, int] = (12, 20)  # how many, both ends included
    small: tuple[int, int] = (42, 48)  # pixels along a small object, both ends included
    large: tuple[int, int] = (62, 67)
    foreground: float = FOREGROUND
    bars: float = 0  # the share of objects but cards, whose letters would merge, that a grey bar partly hides
    litter: int = 0  # dark scraps strewn over the ground


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


def arrange(rng: Rng, recipe: Recipe) -> tuple[SceneObject, ...]:
    """Objects in different cells; half the scenes draw on few colours and shapes, so that some are frequent."""
    few = rng.random_sample() < 0.5
    colors = sample(rng, list(COLORS), 5 if few else len(COLORS))
    shapes = sample(rng, PLAIN_SHAPES, 5 if few else len(PLAIN_SHAPES))
    cells = [(int(place % CELLS), int(place // CELLS)) for place in rng.permutation(CELLS**2)]
    wanted = int(rng.randint(recipe.objects[0], recipe.objects[1] + 1))
    objects: list[SceneObject] = []
    while len(objects) < wanted or (
        len(objects) < recipe.objects[1] and (owners(objects) >= 0).mean() < recipe.foreground
    ):
        cards = sum(placed.shape == "card" for placed in objects)
        if cards < MAX_CARDS and rng.random_sample() < 0.2:
            shape, color, letter = "card", pick(rng, list(COLORS)), pick(rng, LETTERS)
        else:
            shape, color, letter = pick(rng, shapes), pick(rng, colors), ""
        bare = SceneObject(shape, color, "", letter, cells[len(objects)], 0, 0, 0)
        objects.append(_sized(rng, bare, pick(rng, SIZES), recipe))
    # As many objects as there may be, and yet too little foreground: the first small ones become large.
    for index, item in enumerate(objects):
        if (owners(objects) >= 0).mean() >= recipe.foreground:
            break
        if item.size == "small":
            objects[index] = _sized(rng, item, "large", recipe)
    return tuple(objects)


def _sized(rng: Rng, item: SceneObject, size: str, recipe: Recipe) -> SceneObject:
    """The object given a size, an extent and a place in its cell."""
    low, high = recipe.small if size == "small" else recipe.large
    extent = int(rng.randint(low, high + 1))
    left, top = (CELL * index + int(rng.randint(CELL - extent + 1)) for index in item.cell)
    return replace(item, size=size, extent=extent, left=left, top=top)


def pixel_owners(objects: Objects) -> np.ndarray:
    """The object that each pixel shows, or -1: int8 [SIDE, SIDE]."""
    pixels = np.full((SIDE, SIDE), -1, dtype=np.int8)
    for index, item in enumerate(objects):
        region = pixels[item.top : item.top + item.extent, item.left : item.left + item.extent]
        region[2 * stencil(item.shape, item.extent) >= COVERED] = index
    return pixels


def owners(objects: Objects) -> np.ndarray:
    """Which object owns each patch, or -1: int64 [GRID, GRID]; see `patch_owners`."""
    return patch_owners(pixel_owners(objects), [item.center for item in objects])


def patch_owners(pixels: np.ndarray, centers: Sequence[tuple[float, float] | None]) -> np.ndarray:
    """Which object owns each patch, or -1: int64 [GRID, GRID].

    The one that covers most of it, but always the one centred in it: a ring is hollow there.

    Args:
        pixels: the object that each pixel shows, or -1: integers [SIDE, SIDE].
        centers: the middle of each object in pixels, (x, y); None for one that is not in this picture.
    """
    slots = len(centers) + 1
    patch = (np.arange(SIDE) // PATCH)[:, None] * GRID + np.arange(SIDE) // PATCH
    counts = np.bincount((patch * slots + pixels + 1).ravel(), minlength=GRID * GRID * slots).reshape(
        GRID, GRID, slots
    )[..., 1:]
    owner = np.where(counts.max(axis=-1) >= OWNED_PIXELS, counts.argmax(axis=-1), -1)
    for index, center in enumerate(centers):
        if center is not None:
            x, y = center
            owner[int(y) // PATCH, int(x) // PATCH] = index
    return owner


def pick(rng: Rng, options: Sequence[T]) -> T:
    return options[rng.randint(len(options))]


def sample(rng: Rng, options: Sequence[T], n: int) -> list[T]:
    return [options[i] for i in rng.permutation(len(options))[:n]]
