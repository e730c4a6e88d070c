"""Rendered scenes and questions about them, from a seed.

Random numbers come from `numpy.random.RandomState`, whose streams numpy promised never to change; those of
its successor, `Generator`, may. Everything drawn is computed in whole numbers. So a seed gives the same
pixels on every platform, for as long as `VERSION` stays.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .drawing import SIDE, Rng, background, blend, letter_stencil, stencil
from .objects import (
    CELL,
    CELLS,
    COLORS,
    GRID,
    LETTERS,
    PATCH,
    PLAIN_SHAPES,
    SHAPES,
    SIZES,
    Objects,
    Recipe,
    SceneObject,
    arrange,
    owners,
    pixel_owners,
)
from .questions import DIRECTIONS, KINDS, MAX_COUNT, SINGLE_OBJECT, Question

__all__ = [
    "CELL",
    "CELLS",
    "COLORS",
    "DIRECTIONS",
    "GRID",
    "KINDS",
    "LETTERS",
    "MAX_COUNT",
    "PATCH",
    "PLAIN_SHAPES",
    "SHAPES",
    "SIDE",
    "SINGLE_OBJECT",
    "SIZES",
    "VERSION",
    "Objects",
    "Question",
    "Recipe",
    "Scene",
    "SceneObject",
    "questions",
    "render",
]

VERSION = 2  # raised whenever a seed would give another picture or other questions

PLAIN = Recipe()


@dataclass(frozen=True, eq=False)
class Scene:
    """A rendered scene; `owner` [GRID, GRID] is the index of the object that owns each patch, or -1."""

    seed: int
    objects: tuple[SceneObject, ...]
    image: Image.Image
    owner: np.ndarray

    @property
    def masks(self) -> np.ndarray:
        """The pixels of each object, as drawn before anything hid them: bool [objects, SIDE, SIDE]."""
        return pixel_owners(self.objects) == np.arange(len(self.objects))[:, None, None]

    def patch_words(self) -> list[tuple[str, ...]]:
        """The words that are true of each of the GRID * GRID patches, in reading order; none on the ground."""
        words = [(item.shape, item.color, item.size, *item.letter) for item in self.objects]
        return [words[index] if index >= 0 else () for index in self.owner.ravel().tolist()]


def render(seed: int, recipe: Recipe = PLAIN) -> Scene:
    """The scene of a seed (0 to 2**32 - 1): the same objects and the same pixels every time."""
    rng = Rng(seed)
    objects = arrange(rng, recipe)
    return Scene(seed, objects, _paint(objects, rng, recipe), owners(objects))


def questions(scene: Scene, n: int) -> list[Question]:
    """The first `n` questions of a scene, all different; a larger `n` only adds to the list.

    Raises `ValueError` if the scene has fewer questions than `n`.
    """
    left = {kind: list(ask(scene.objects)) for kind, (_, ask) in KINDS.items()}
    asked = in_proportion(left, {kind: share for kind, (share, _) in KINDS.items()}, scene.seed, n)
    if len(asked) < n:
        raise ValueError(f"scene {scene.seed} has only {len(asked)} questions, not {n}")
    return asked


def in_proportion(
    left: Mapping[str, list[tuple[float, Question]]], shares: Mapping[str, float], seed: int, n: int
) -> list[Question]:
    """At most `n` different questions, kinds in proportion to their shares; those drawn are taken out of `left`."""
    rng = Rng([seed, 1])  # a stream of its own, so that painting and asking cannot disturb each other
    asked: list[Question] = []
    while len(asked) < n:
        kinds = [kind for kind in left if left[kind]]
        if not kinds:
            break
        kind = kinds[draw(rng, [shares[kind] for kind in kinds])]
        _, question = left[kind].pop(draw(rng, [weight for weight, _ in left[kind]]))
        asked.append(question)
    return asked


def draw(rng: Rng, weights: Sequence[float]) -> int:
    """An index, drawn in proportion to the weights."""
    sums = np.cumsum(weights)
    return int(np.searchsorted(sums[:-1], rng.random_sample() * sums[-1], side="right"))


def _paint(objects: Objects, rng: Rng, recipe: Recipe) -> Image.Image:
    canvas = background(rng)
    for _ in range(recipe.litter):
        scrap = letter_stencil("CLZ"[rng.randint(3)], int(rng.randint(8, 18)))  # no shape that is asked about
        left, top = rng.randint(SIDE - len(scrap) + 1, size=2)
        blend(canvas, left, top, rng.randint(10, 50) + rng.randint(-15, 16, size=3), scrap)
    for item in objects:
        paint_object(canvas, item, rng)
    for item in objects:
        if recipe.bars and not item.letter and rng.random_sample() < recipe.bars:
            _hide(canvas, item, rng)
    canvas += rng.randint(-6, 7, size=(SIDE, SIDE, 1))
    return Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))


def paint_object(canvas: np.ndarray, item: SceneObject, rng: Rng) -> None:
    """Paint an object over `canvas` in place, in a shade of its colour."""
    extent = item.extent
    color = np.array(COLORS[item.color]) + rng.randint(-14, 15, size=3)
    slope = rng.randint(-14, 15, size=2)  # a soft shade across the object
    shade = (np.arange(extent) * slope[0])[None, :] + (np.arange(extent) * slope[1])[:, None]
    blend(canvas, item.left, item.top, color + (shade // extent)[..., None], stencil(item.shape, extent))
    if item.letter:
        ink = letter_stencil(item.letter, 3 * extent // 4)
        margin = (extent - len(ink)) // 2
        blend(canvas, item.left + margin, item.top + margin, np.array([15, 15, 15]), ink)


def _hide(canvas: np.ndarray, item: SceneObject, rng: Rng) -> None:
    """A grey bar over a quarter to a third of the object, along one of its sides or its middle."""
    width = item.extent * int(rng.randint(25, 34)) // 100
    start = int(rng.randint(item.extent - width + 1))
    height, breadth, left, top = item.extent, width, item.left + start, item.top
    if rng.randint(2):
        height, breadth, left, top = width, item.extent, item.left, item.top + start
    canvas[top : top + height, left : left + breadth] = rng.randint(70, 130)
