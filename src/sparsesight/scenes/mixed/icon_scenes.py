"""Scenes of icons and letter cards, some icons on a plate, in a layout of 3 x 3 or 4 x 4 cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..drawing import SIDE, Rng, background, letter_stencil, stencil
from ..objects import COLORS, LETTERS, pick, sample
from .canvas import INK, Canvas
from .icons import icon
from .picture import Element, Picture, Pool
from .things import Thing

ICON_SIZES = {"small": (34, 42), "large": (58, 72)}  # pixels along an icon, both ends included
CARD_SIZES = {"small": (42, 48), "large": (62, 72)}
PLATES = {"circle": 140, "square": 125, "diamond": 190}  # per cent of the icon that the plate measures
MAX_CARDS = 2
COUNTS = {3: (5, 9), 4: (8, 14)}  # objects in a layout of so many cells along a side, both ends included


def arrange(
    rng: Rng, things: Sequence[Thing], cells: int, count: int, picture: int = 0
) -> tuple[Element, ...]:
    """Objects in different cells; half the scenes draw on few things, so that some occur more than once."""
    few = sample(rng, things, max(3, 2 * count // 3) if rng.random_sample() < 0.5 else 3 * count)
    places = [(int(place % cells), int(place // cells)) for place in rng.permutation(cells**2)]
    colors, letters = sample(rng, list(COLORS), MAX_CARDS), sample(rng, LETTERS, MAX_CARDS)
    elements: list[Element] = []
    for cell in places[:count]:
        cards = sum(element.kind == "card" for element in elements)
        size = pick(rng, ("small", "large"))
        if cards < MAX_CARDS and rng.random_sample() < 0.12:
            color, letter = colors[cards], letters[cards]
            extent = int(rng.randint(CARD_SIZES[size][0], CARD_SIZES[size][1] + 1))
            bare = Element(
                "card", f"{color} card", (0, 0, 0, 0), size, color=color, shape="card", text=letter
            )
        else:
            thing, shape, color = pick(rng, few), "", ""
            low, high = ICON_SIZES[size]
            extent = int(rng.randint(low, high + 1))
            if rng.random_sample() < 0.5:
                plate, tint = pick(rng, list(PLATES)), pick(rng, list(COLORS))
                wanted = extent * PLATES[plate] // 100
                if wanted <= SIDE // cells:
                    shape, color, extent = plate, tint, wanted
            bare = Element(
                "icon",
                thing.name,
                (0, 0, 0, 0),
                size,
                color=color,
                shape=shape,
                category=thing.category,
                code=thing.code,
            )
        elements.append(_placed(rng, bare, extent, cell, cells, picture))
    return tuple(elements)


def _placed(
    rng: Rng, element: Element, extent: int, cell: tuple[int, int], cells: int, picture: int
) -> Element:
    pitch = SIDE // cells
    left, top = (pitch * index + int(rng.randint(pitch - extent + 1)) for index in cell)
    return replace(element, box=(left, top, left + extent, top + extent), cell=cell, picture=picture)


def paint(rng: Rng, elements: Sequence[Element], picture: int = 0) -> Canvas:
    """The elements of one picture on a textured ground; their indices are those in `elements`."""
    canvas = Canvas(background(rng))
    for index, element in enumerate(elements):
        if element.picture != picture:
            continue
        left, top, right, _ = element.box
        extent = right - left
        if element.shape:
            tint = np.array(COLORS[element.color]) + rng.randint(-14, 15, size=3)
            canvas.paint(left, top, tint, stencil(element.shape, extent), index)
        if element.kind == "card":
            ink = letter_stencil(element.text, 3 * extent // 4)
            margin = (extent - len(ink)) // 2
            canvas.paint(left + margin, top + margin, np.array(INK), ink)
        else:
            inner = extent * 100 // PLATES[element.shape] if element.shape else extent
            margin = (extent - inner) // 2
            colors, coverage = icon(element.code, inner)
            canvas.paint(left + margin, top + margin, colors, coverage, index)
    return canvas


def draw(seed: int, pool: Pool) -> Picture:
    """A scene of icons."""
    rng = Rng(seed)
    cells = pick(rng, list(COUNTS))
    low, high = COUNTS[cells]
    elements = arrange(rng, pool.things, cells, int(rng.randint(low, high + 1)))
    canvas = paint(rng, elements)
    images = (canvas.image(rng),)
    return Picture(seed, "icons", images, elements, (cells, cells), canvas.owners(elements)[None])
