"""Pictures crowded with icons, signs or words, for the tower alone: many more names and words than a scene has.

What a patch shows is labelled with classes (`FIELDS`), the same that elements of mixed scenes have. Nothing is drawn
that only held-out splits show.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparsesight.scenes.drawing import SIDE, Rng, background, letter_stencil, stencil
from sparsesight.scenes.mixed.canvas import INK, Canvas, paper
from sparsesight.scenes.mixed.dataset import KNOWN_POOL
from sparsesight.scenes.mixed.fonts import Line, line
from sparsesight.scenes.mixed.icon_scenes import CARD_SIZES, ICON_SIZES, PLATES
from sparsesight.scenes.mixed.icons import icon
from sparsesight.scenes.mixed.picture import Element
from sparsesight.scenes.mixed.signs import DARK, MARGIN, WHITE
from sparsesight.scenes.objects import COLORS, LETTERS

SPELLED = 7  # letters of the longest word
SIGNS = "abcdefghijklmnopqrstuvwxyz0123456789"
NAMES = [thing.name for thing in KNOWN_POOL.things]
WORDS = list(KNOWN_POOL.words)
KINDS = ("icon", "card", "text", "bar", "point")
SHAPES = [*PLATES, "card", "sign"]
# what is said of a patch -> number of classes
FIELDS = {
    "kind": len(KINDS) + 1,  # the last: nothing
    "name": len(NAMES),
    "word": len(WORDS),
    "color": len(COLORS),
    "shape": len(SHAPES),
    "letter": len(LETTERS),
    **{f"sign {place}": len(SIGNS) + 1 for place in range(SPELLED)},  # the last: the word has ended
}
UNKNOWN = -100  # what cross_entropy leaves out
PITCHES = (84, 67, 56)  # pixels along a cell of icons
SIZES = {False: (14, 24), True: (17, 34)}  # pixels to the em, on paper and on signs


def classes(element: Element) -> list[int]:
    """The classes of an element, in the order of `FIELDS`."""
    text = element.kind not in ("icon", "card", "bar", "point")
    kind = KINDS.index("text" if text else element.kind)
    spelled = [UNKNOWN] * SPELLED
    if text:
        codes = [SIGNS.index(sign) for sign in element.text]
        spelled = (codes + [len(SIGNS)] * SPELLED)[:SPELLED]

    def of(options: list[str], value: str) -> int:
        return options.index(value) if value in options else UNKNOWN

    return [
        kind,
        of(NAMES, element.name) if element.kind == "icon" else UNKNOWN,
        of(WORDS, element.text) if text else UNKNOWN,
        of(list(COLORS), element.color),
        of(SHAPES, element.shape),
        of(list(LETTERS), element.text) if element.kind == "card" else UNKNOWN,
        *spelled,
    ]


NOTHING = [len(KINDS)] + [UNKNOWN] * (len(FIELDS) - 1)


def labels(elements: Any, owner: np.ndarray) -> np.ndarray:
    """The classes of every patch: int16 [..., fields] for owners [...]."""
    return np.array([*map(classes, elements), NOTHING], dtype=np.int16)[owner]  # -1 is the last


@dataclass
class Shop:
    """What collages are put together from, made once: lines of text on paper and on signs, and grounds."""

    lines: dict[bool, list[tuple[str, int, Line]]]
    grounds: list[np.ndarray]


def shop(file: Path, n: int, workers: int) -> Shop:
    """`n` lines of each sort; `file` keeps them."""
    if not file.exists():
        jobs = [(seed, sign, 50) for sign in (False, True) for seed in range(n // 50)]
        with ProcessPoolExecutor(workers) as pool:
            parts = list(pool.map(_lines, jobs))
        lines: dict[bool, list[Any]] = {False: [], True: []}
        for (_, sign, _), part in zip(jobs, parts, strict=True):
            lines[sign] += part
        fresh = file.with_suffix(".new")
        torch.save(Shop(lines, [background(Rng(seed)) for seed in range(100)]), fresh)
        fresh.replace(file)
    made: Shop = torch.load(file, weights_only=False)  # this run's own file
    return made


def _lines(job: tuple[int, bool, int]) -> list[tuple[str, int, Line]]:
    seed, sign, n = job
    rng = Rng(1000 * seed + sign)
    made = []
    for _ in range(n):
        text = WORDS[rng.randint(len(WORDS))] if rng.random_sample() < 0.6 else _number(rng)
        em = int(rng.randint(SIZES[sign][0], SIZES[sign][1] + 1))
        face = KNOWN_POOL.faces[rng.randint(len(KNOWN_POOL.faces))]
        made.append((text, em, line(text, face, em)))
    return made


def _number(rng: Rng) -> str:
    return str(rng.randint(0, 100) if rng.random_sample() < 0.6 else rng.randint(100, 10_000))


def draw(rng: Rng, made: Shop) -> tuple[np.ndarray, np.ndarray]:
    """A collage: uint8 [3, SIDE, SIDE], and the classes of its patches int16 [PATCHES, fields]."""
    sort = rng.random_sample()
    ground = made.grounds[rng.randint(len(made.grounds))][
        :: 1 - 2 * rng.randint(2), :: 1 - 2 * rng.randint(2)
    ]
    canvas = Canvas(ground.astype(np.int32) if sort < 0.75 else paper(rng).astype(np.int32))
    elements = _icons(rng, canvas) if sort < 0.5 else _words(rng, canvas, made, sort < 0.75)
    owner = canvas.owners(elements).ravel()
    return np.asarray(canvas.image(rng)).transpose(2, 0, 1), labels(elements, owner)


def _icons(rng: Rng, canvas: Canvas) -> list[Element]:
    """A cell each, most of them with an icon, on a plate or not, some with a card."""
    elements: list[Element] = []
    pitch = PITCHES[rng.randint(len(PITCHES))]
    colors, cells = list(COLORS), SIDE // pitch
    for cell in range(cells**2):
        low, high = ICON_SIZES["large" if rng.random_sample() < 0.5 and pitch > 58 else "small"]
        extent, color, shape, text = min(int(rng.randint(low, high + 1)), pitch), "", "", ""
        thing, kind = KNOWN_POOL.things[rng.randint(len(NAMES))], "icon"
        if rng.random_sample() < 0.06:
            low, high = CARD_SIZES["large" if rng.random_sample() < 0.5 and pitch > 62 else "small"]
            kind, shape, extent = "card", "card", min(int(rng.randint(low, high + 1)), pitch)
            text, color = LETTERS[rng.randint(len(LETTERS))], colors[rng.randint(len(colors))]
        elif rng.random_sample() < 0.5:
            plate = list(PLATES)[rng.randint(len(PLATES))]
            wanted = extent * PLATES[plate] // 100
            if wanted <= pitch:
                shape, color, extent = plate, colors[rng.randint(len(colors))], wanted
        left = pitch * (cell % cells) + int(rng.randint(pitch - extent + 1))
        top = pitch * (cell // cells) + int(rng.randint(pitch - extent + 1))
        index, box = len(elements), (left, top, left + extent, top + extent)
        if shape:
            tint = np.array(COLORS[color]) + rng.randint(-14, 15, size=3)
            canvas.paint(left, top, tint, stencil(shape, extent), index)
        if kind == "card":
            ink = letter_stencil(text, 3 * extent // 4)
            margin = (extent - len(ink)) // 2
            canvas.paint(left + margin, top + margin, np.array(INK), ink)
        else:
            inner = extent * 100 // PLATES[shape] if shape else extent
            margin = (extent - inner) // 2
            canvas.paint(left + margin, top + margin, *_icon(thing.code, inner), index)
        name = thing.name if kind == "icon" else f"{color} card"
        elements.append(Element(kind, name, box, color=color, shape=shape, text=text))
    return elements


@lru_cache(maxsize=16_000)
def _icon(code: str, extent: int) -> tuple[np.ndarray, np.ndarray]:
    colors, coverage = icon.__wrapped__(code, extent)
    return colors.astype(np.int16), coverage.astype(np.int16)


def _words(rng: Rng, canvas: Canvas, made: Shop, sign: bool) -> list[Element]:
    """Words and numbers in lines, on signs or plainly."""
    elements: list[Element] = []
    colors, margin, top = list(COLORS), MARGIN if sign else 0, int(rng.randint(12))
    while top < SIDE:
        left, deepest = int(rng.randint(20)), 0
        while True:
            text, _, written = made.lines[sign][rng.randint(len(made.lines[sign]))]
            height, width = (extent + 2 * margin for extent in written.coverage.shape)
            if left + width > SIDE or top + height > SIDE:
                break
            color = colors[rng.randint(len(colors))] if sign else ""
            box = (left, top, left + width, top + height)
            ink = INK
            if sign:
                red, green, blue = (int(value + rng.randint(-14, 15)) for value in COLORS[color])
                canvas.fill(box, (red, green, blue), len(elements))
                ink = WHITE if color in DARK else INK
            canvas.paint(left + margin, top + margin, np.array(ink), written.coverage)
            canvas.claim(box, len(elements))
            elements.append(Element("sign", text, box, color=color, shape="sign" if sign else "", text=text))
            left, deepest = left + width + int(rng.randint(5, 25)), max(deepest, height)
        top += (deepest or 20) + int(rng.randint(4, 20))
    return elements


def stored(folder: Path, n: int, lines: int, workers: int) -> tuple[np.ndarray, np.ndarray]:
    """`n` collages, pixels and classes, as arrays on the disk; `folder` keeps them."""
    pixels, told = folder / "collages.npy", folder / "collages-classes.npy"
    if not told.exists():
        shop(folder / "lines.pt", lines, workers)
        fresh = pixels.with_suffix(".new")
        array = np.lib.format.open_memmap(fresh, "w+", np.uint8, (n, 3, SIDE, SIDE))
        jobs = [(folder / "lines.pt", first, min(50, n - first)) for first in range(0, n, 50)]
        parts = []
        with ProcessPoolExecutor(workers) as pool:
            for (_, first, many), (drawn, known) in zip(jobs, pool.map(_some, jobs), strict=True):
                array[first : first + many] = drawn
                parts.append(known)
        fresh.replace(pixels)
        np.save(told, np.concatenate(parts))
    return np.load(pixels, mmap_mode="r"), np.load(told, mmap_mode="r")


@lru_cache(maxsize=1)
def _shop(file: Path) -> Shop:
    return shop(file, 0, 1)


def _some(job: tuple[Path, int, int]) -> tuple[np.ndarray, np.ndarray]:
    file, first, n = job
    drawn = [draw(Rng(first + index), _shop(file)) for index in range(n)]
    return np.stack([pixels for pixels, _ in drawn]), np.stack([known for _, known in drawn])
