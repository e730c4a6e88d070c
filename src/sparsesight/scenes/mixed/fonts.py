"""Lines of text as coverage, rasterised from the fonts' outlines in whole numbers.

No font engine is involved: hinting and anti-aliasing change from one version of those to the next.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np

from ..drawing import COVERED, SUPERSAMPLING
from .packages import folder

CURVE = 6  # straight pieces that a curve is drawn with


@dataclass(frozen=True)
class Face:
    """A font file of a package."""

    package: str
    file: str


KNOWN_FACES = (
    Face("fontpkg-pt-sans", "PT_Sans-Web-Regular.ttf"),
    Face("fontpkg-pt-sans", "PT_Sans-Web-Bold.ttf"),
    Face("fontpkg-pt-serif", "PT_Serif-Web-Regular.ttf"),
    Face("fontpkg-pt-serif", "PT_Serif-Web-Bold.ttf"),
    Face("fontpkg-arvo", "Arvo-Regular.ttf"),
    Face("fontpkg-arvo", "Arvo-Bold.ttf"),
    Face("fontpkg-open-sans", "OpenSans[wdth,wght].ttf"),
    Face("fontpkg-lora", "Lora[wght].ttf"),
    Face("fontpkg-oswald", "Oswald[wght].ttf"),
    Face("fontpkg-roboto-mono", "RobotoMono[wght].ttf"),
)
HELD_OUT_FACES = (
    Face("fontpkg-barlow", "Barlow-Regular.ttf"),
    Face("fontpkg-barlow", "Barlow-Bold.ttf"),
    Face("fontpkg-crimson-text", "CrimsonText-Regular.ttf"),
    Face("fontpkg-crimson-text", "CrimsonText-Bold.ttf"),
    Face("fontpkg-roboto-slab", "RobotoSlab[wght].ttf"),
    Face("fontpkg-indie-flower", "IndieFlower-Regular.ttf"),
)

Points = list[tuple[int, int]]


@dataclass(frozen=True, eq=False)
class Line:
    """The coverage of a line of text, int32 [h, w] from 0 to COVERED, cut to its ink."""

    coverage: np.ndarray
    rise: int  # rows above the baseline


@lru_cache(maxsize=4096)
def line(text: str, face: Face, size: int) -> Line:
    """A line of text at `size` pixels to the em."""
    units, glyphs = _opened(face)
    contours: list[Points] = []
    across = 0
    for letter in text:
        outline, advance = glyphs(letter)
        contours += [[(x + across, y) for x, y in contour] for contour in outline]
        across += advance
    # Samples lie at odd multiples of `units`; a unit of the font is 2 * samples of an em.
    unit = 2 * SUPERSAMPLING * size
    width, rise, drop = size * across // units + size, size * 5 // 4, size // 2
    x = (2 * np.arange(SUPERSAMPLING * width, dtype=np.int64) + 1 - SUPERSAMPLING * size) * units
    y = (2 * np.arange(SUPERSAMPLING * (rise + drop), dtype=np.int64) + 1 - 2 * SUPERSAMPLING * rise) * units
    turns = np.zeros((len(y), len(x)), dtype=np.int16)
    for contour in contours:
        corners = [(unit * px, -unit * py) for px, py in contour]
        for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
            turn = 1 if by > ay else -1
            if turn < 0:
                ax, ay, bx, by = bx, by, ax, ay
            rows = slice(*np.searchsorted(y, (ay, by)).tolist())
            turns[rows] += turn * ((x[None, :] - ax) * (by - ay) > (bx - ax) * (y[rows, None] - ay)).astype(
                np.int16
            )
    inside = (turns != 0).reshape(rise + drop, SUPERSAMPLING, width, SUPERSAMPLING)
    coverage = inside.sum(axis=(1, 3), dtype=np.int32)
    rows_used, columns_used = (np.flatnonzero(coverage.any(axis=axis)) for axis in (1, 0))
    top = int(rows_used[0])
    cut = coverage[top : rows_used[-1] + 1, columns_used[0] : columns_used[-1] + 1]
    cut.setflags(write=False)  # it is cached
    assert cut.max() <= COVERED
    return Line(cut, rise - top)


@cache
def _opened(face: Face) -> tuple[int, Any]:
    """The units of an em, and a function from a character to its closed contours and its advance, in those units."""
    from fontTools.pens.basePen import BasePen
    from fontTools.ttLib import TTFont

    font = TTFont(folder(face.package) / "files" / face.file, lazy=True)
    names, glyphs = font.getBestCmap(), font.getGlyphSet()

    class Contours(BasePen):
        """Collects contours; curves become straight pieces between whole coordinates."""

        def __init__(self) -> None:
            super().__init__(glyphs)
            self.found: list[Points] = []

        def _moveTo(self, pt: tuple[float, float]) -> None:
            self.found.append([_whole(pt)])

        def _lineTo(self, pt: tuple[float, float]) -> None:
            self.found[-1].append(_whole(pt))

        def _curveToOne(
            self, pt1: tuple[float, float], pt2: tuple[float, float], pt3: tuple[float, float]
        ) -> None:
            (ax, ay), (bx, by), (cx, cy), (dx, dy) = self._getCurrentPoint(), pt1, pt2, pt3
            for step in range(1, CURVE + 1):
                t, u = step, CURVE - step
                weights = u**3, 3 * u * u * t, 3 * u * t * t, t**3
                px = sum(w * p for w, p in zip(weights, (ax, bx, cx, dx), strict=True)) / CURVE**3
                py = sum(w * p for w, p in zip(weights, (ay, by, cy, dy), strict=True)) / CURVE**3
                self.found[-1].append(_whole((px, py)))

    @cache
    def contours(letter: str) -> tuple[list[Points], int]:
        pen = Contours()
        name = names[ord(letter)]
        glyphs[name].draw(pen)
        return pen.found, round(glyphs[name].width)

    return int(font["head"].unitsPerEm), contours


def _whole(point: tuple[float, float]) -> tuple[int, int]:
    return round(point[0]), round(point[1])
