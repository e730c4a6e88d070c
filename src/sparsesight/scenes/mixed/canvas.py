"""Painting in whole numbers, with a record of which element each pixel shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from ..drawing import COVERED, SIDE, SUPERSAMPLING, Rng, blend
from ..objects import patch_owners
from .fonts import Face, line
from .picture import Box, Element

INK = (15, 15, 15)


class Canvas:
    """A picture that is being painted on a ground, integers [SIDE, SIDE, 3].

    `shown` [SIDE, SIDE] is the index of the element that each pixel shows, or -1.
    """

    def __init__(self, ground: np.ndarray) -> None:
        self.colors = ground
        self.shown = np.full((SIDE, SIDE), -1, dtype=np.int16)

    def paint(self, left: int, top: int, color: np.ndarray, coverage: np.ndarray, element: int = -1) -> Box:
        """Paint a color, broadcastable to [h, w, 3], where a coverage [h, w] says so; returns its box."""
        height, width = coverage.shape
        blend(self.colors, left, top, color, coverage)
        if element >= 0:
            region = self.shown[top : top + height, left : left + width]
            region[2 * coverage >= COVERED] = element
        return left, top, left + width, top + height

    def fill(self, box: Box, color: tuple[int, int, int], element: int = -1) -> None:
        """Fill a rectangle."""
        left, top, right, bottom = box
        whole = np.full((bottom - top, right - left), COVERED, dtype=np.int32)
        self.paint(left, top, np.array(color), whole, element)

    def claim(self, box: Box, element: int) -> None:
        """Count a whole rectangle as showing an element, such as the gaps within a word."""
        left, top, right, bottom = box
        self.shown[top:bottom, left:right] = element

    def write(
        self,
        text: str,
        face: Face,
        size: int,
        x: int,
        baseline: int,
        *,
        color: tuple[int, int, int] = INK,
        align: str = "middle",
        element: int = -1,
    ) -> Box:
        """Write a line of text at a baseline, its "left", "middle" or "right" at x, within the picture."""
        written = line(text, face, size)
        height, width = written.coverage.shape
        left = x - {"left": 0, "middle": width // 2, "right": width}[align]
        left, top = min(max(left, 0), SIDE - width), min(max(baseline - written.rise, 0), SIDE - height)
        box = self.paint(left, top, np.array(color), written.coverage)
        if element >= 0:
            self.claim(box, element)
        return box

    def stroke(
        self, start: tuple[int, int], end: tuple[int, int], width: int, color: tuple[int, int, int]
    ) -> None:
        """A straight line with round ends."""
        reach = width // 2 + 1
        left, top = (max(min(a, b) - reach, 0) for a, b in zip(start, end, strict=True))
        right, bottom = (min(max(a, b) + reach, SIDE) for a, b in zip(start, end, strict=True))
        # In halves of samples, from the corner
        scale = 2 * SUPERSAMPLING
        x = (2 * np.arange(SUPERSAMPLING * (right - left), dtype=np.int64) + 1)[None, :]
        y = (2 * np.arange(SUPERSAMPLING * (bottom - top), dtype=np.int64) + 1)[:, None]
        (ax, ay), (bx, by) = ((scale * (px - left), scale * (py - top)) for px, py in (start, end))
        dx, dy, pen = bx - ax, by - ay, SUPERSAMPLING * width
        length = dx**2 + dy**2
        along, across = (x - ax) * dx + (y - ay) * dy, (x - ax) * dy - (y - ay) * dx
        inside = (along >= 0) & (along <= length) & (across**2 <= pen**2 * length)
        for px, py in ((ax, ay), (bx, by)):
            inside |= (x - px) ** 2 + (y - py) ** 2 <= pen**2
        coverage = inside.reshape(bottom - top, SUPERSAMPLING, right - left, SUPERSAMPLING).sum(
            axis=(1, 3), dtype=np.int32
        )
        self.paint(left, top, np.array(color), coverage)

    def owners(self, elements: Sequence[Element], picture: int = 0) -> np.ndarray:
        """The element that owns each patch, or -1: int64 [GRID, GRID]; elements of other pictures own none."""
        return patch_owners(self.shown, [e.center if e.picture == picture else None for e in elements])

    def image(self, rng: Rng) -> Image.Image:
        """The picture, with a little grain."""
        grainy = self.colors + rng.randint(-6, 7, size=(SIDE, SIDE, 1))
        return Image.fromarray(np.clip(grainy, 0, 255).astype(np.uint8))


def paper(rng: Rng) -> np.ndarray:
    """A plain light ground, integers [SIDE, SIDE, 3]."""
    return np.zeros((SIDE, SIDE, 3), dtype=np.int64) + rng.randint(225, 250) + rng.randint(-6, 7, size=3)
