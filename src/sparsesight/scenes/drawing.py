"""Stencils of shapes and letters, and backgrounds, from which scenes are painted.

Everything is drawn in whole numbers by numpy alone, the letters included (they are strokes, not a font), so
that no pixel depends on the platform, on a font or on the version of an imaging library.
"""

from functools import cache
from itertools import pairwise

import numpy as np

Rng = np.random.RandomState

SIDE = 336  # pixels along a picture
UNIT = 4096  # the square that shapes and letters are described in, y growing down
SUPERSAMPLING = 4  # samples along a pixel
COVERED = SUPERSAMPLING**2  # the coverage of a pixel that is wholly inside

Points = list[tuple[int, int]]


@cache
def stencil(shape: str, extent: int) -> np.ndarray:
    """The coverage of a shape, 0 to COVERED: int32 [extent, extent]."""
    x, y = _samples(extent)
    half = UNIT // 2
    distance = (x - half) ** 2 + (y - half) ** 2
    if shape == "circle":
        inside = distance <= half**2
    elif shape == "ring":
        inside = (distance <= half**2) & (distance > (UNIT * 24 // 100) ** 2)
    elif shape == "card":
        inset, radius = half - UNIT * 18 // 100, UNIT * 18 // 100
        corner = np.maximum(abs(x - half) - inset, 0) ** 2 + np.maximum(abs(y - half) - inset, 0) ** 2
        inside = corner <= radius**2
    else:
        inside = _inside(_outline(shape), x, y)
    return _coverage(inside, extent)


@cache
def letter_stencil(letter: str, extent: int) -> np.ndarray:
    """The coverage of a letter, 0 to COVERED: int32 [extent, extent]."""
    x, y = _samples(extent)
    pen = UNIT * 9 // 100
    inside = np.zeros(np.broadcast_shapes(x.shape, y.shape), dtype=bool)
    for stroke in LETTERS[letter]:
        corners = [(column * UNIT // 20, row * UNIT // 20) for column, row in stroke]
        for (ax, ay), (bx, by) in pairwise(corners):
            dx, dy = bx - ax, by - ay
            length = dx**2 + dy**2
            along = (x - ax) * dx + (y - ay) * dy
            across = (x - ax) * dy - (y - ay) * dx
            inside |= (along >= 0) & (along <= length) & (across**2 <= pen**2 * length)
        for ax, ay in corners:
            inside |= (x - ax) ** 2 + (y - ay) ** 2 <= pen**2
    return _coverage(inside, extent)


def background(rng: Rng) -> np.ndarray:
    """A textured ground, integers [SIDE, SIDE, 3]: soft clouds of dull colour under mottle, stripes or checks."""
    clouds = _enlarge(rng.randint(60, 150, size=(7, 7, 3)))
    canvas = clouds + rng.randint(-12, 13, size=3)
    canvas += _enlarge(rng.randint(-13, 14, size=(84, 84, 1)))
    pattern, strength = rng.randint(4), rng.randint(6, 15)
    if pattern < 3:
        y, x = np.ogrid[:SIDE, :SIDE]
        period = rng.randint(7, 22)
        a, b = rng.randint(-3, 4), rng.randint(1, 4)
        bands = (a * x + b * y) // (period * (abs(a) + b) // 3 + 1) % 2
        if pattern == 2:
            bands = bands ^ (x // period % 2)
        canvas += ((2 * bands - 1) * strength)[..., None]
    else:
        canvas += np.repeat(
            np.repeat(rng.randint(-strength, strength + 1, size=(84, 84, 1)), 4, axis=0), 4, axis=1
        )
    return canvas


def blend(canvas: np.ndarray, left: int, top: int, color: np.ndarray, coverage: np.ndarray) -> None:
    """Paint `color` (broadcastable to [h, w, 3]) over `canvas` in place, where the coverage [h, w] says so."""
    height, width = coverage.shape
    region = canvas[top : top + height, left : left + width]
    region += (color - region) * coverage[..., None] // COVERED


def _enlarge(grid: np.ndarray) -> np.ndarray:
    """A small map [n, n, c] stretched over the picture, linear between its values: int32 [SIDE, SIDE, c]."""
    n, steps = len(grid), 64
    place = np.arange(SIDE) * (n - 1) * steps // (SIDE - 1)
    lower = np.minimum(place // steps, n - 2)
    part = (place - lower * steps).astype(np.int32)
    grid = grid.astype(np.int32)
    tall = grid[lower] * (steps - part)[:, None, None] + grid[lower + 1] * part[:, None, None]
    return (tall[:, lower] * (steps - part)[:, None] + tall[:, lower + 1] * part[:, None]) // steps**2


def _samples(extent: int) -> tuple[np.ndarray, np.ndarray]:
    """Where an `extent` of pixels is sampled, in UNITs: x [1, n] and y [n, 1]."""
    n = extent * SUPERSAMPLING
    at = (2 * np.arange(n, dtype=np.int64) + 1) * UNIT // (2 * n)
    return at[None, :], at[:, None]


def _coverage(inside: np.ndarray, extent: int) -> np.ndarray:
    coverage = inside.reshape(extent, SUPERSAMPLING, extent, SUPERSAMPLING).sum(axis=(1, 3), dtype=np.int32)
    coverage.setflags(write=False)  # it is cached
    return coverage


def _inside(corners: Points, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether points lie within a polygon: a ray to the left crosses an odd number of its edges."""
    odd = np.zeros(np.broadcast_shapes(x.shape, y.shape), dtype=bool)
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        if ay > by:
            ax, ay, bx, by = bx, by, ax, ay
        odd ^= (y >= ay) & (y < by) & ((x - ax) * (by - ay) > (bx - ax) * (y - ay))
    return odd


def _outline(shape: str) -> Points:
    """The corners of a shape in the UNIT square."""
    return [(round(px * UNIT), round(py * UNIT)) for px, py in _corners(shape)]


def _corners(shape: str) -> list[tuple[float, float]]:
    if shape == "square":
        return [(0.05, 0.05), (0.95, 0.05), (0.95, 0.95), (0.05, 0.95)]
    if shape == "triangle":
        return [(0.5, 0.02), (1, 0.95), (0, 0.95)]
    if shape == "diamond":
        return [(0.5, 0), (0.9, 0.5), (0.5, 1), (0.1, 0.5)]
    if shape == "cross":
        a, b = 0.32, 0.68  # the edges of the beams
        right = [(b, 0.0), (b, a), (1.0, a), (1.0, b), (b, b), (b, 1.0)]
        return right + [(1 - px, 1 - py) for px, py in right]
    if shape == "star":
        spokes = [(np.pi * (tenth / 5 - 0.5), 0.24 if tenth % 2 else 0.52) for tenth in range(10)]
        return [(0.5 + r * float(np.cos(angle)), 0.53 + r * float(np.sin(angle))) for angle, r in spokes]
    if shape == "heart":
        turns = 2 * np.pi * np.arange(48) / 48
        across = 0.5 + 0.5 * np.sin(turns) ** 3
        rise = 13 * np.cos(turns) - 5 * np.cos(2 * turns) - 2 * np.cos(3 * turns) - np.cos(4 * turns)
        return list(zip(across.tolist(), (0.48 - rise / 30).tolist(), strict=True))
    raise ValueError(f"no outline for shape {shape!r}")


# Each letter as pen strokes on a square of 20 by 20, y growing down
LETTERS: dict[str, tuple[Points, ...]] = {
    "A": ([(3, 18), (10, 2), (17, 18)], [(6, 12), (14, 12)]),
    "B": (
        [(4, 2), (4, 18), (12, 18), (16, 16), (16, 12), (12, 10), (4, 10)],
        [(4, 2), (11, 2), (15, 4), (15, 8), (12, 10)],
    ),
    "C": ([(16, 5), (13, 2), (8, 2), (4, 6), (4, 14), (8, 18), (13, 18), (16, 15)],),
    "E": ([(16, 2), (4, 2), (4, 18), (16, 18)], [(4, 10), (14, 10)]),
    "F": ([(16, 2), (4, 2), (4, 18)], [(4, 10), (14, 10)]),
    "H": ([(4, 2), (4, 18)], [(16, 2), (16, 18)], [(4, 10), (16, 10)]),
    "K": ([(4, 2), (4, 18)], [(16, 2), (4, 11)], [(8, 8), (16, 18)]),
    "L": ([(4, 2), (4, 18), (16, 18)],),
    "M": ([(3, 18), (3, 2), (10, 12), (17, 2), (17, 18)],),
    "N": ([(4, 18), (4, 2), (16, 18), (16, 2)],),
    "P": ([(4, 18), (4, 2), (12, 2), (16, 4), (16, 9), (12, 11), (4, 11)],),
    "R": ([(4, 18), (4, 2), (12, 2), (16, 4), (16, 8), (12, 10), (4, 10)], [(9, 10), (16, 18)]),
    "S": ([(16, 5), (13, 2), (7, 2), (4, 5), (5, 9), (15, 11), (16, 15), (13, 18), (7, 18), (4, 15)],),
    "T": ([(3, 2), (17, 2)], [(10, 2), (10, 18)]),
    "X": ([(4, 2), (16, 18)], [(16, 2), (4, 18)]),
    "Z": ([(4, 2), (16, 2), (4, 18), (16, 18)],),
}
