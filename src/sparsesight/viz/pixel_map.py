"""Measures where an image processor puts a picture, by processing one whose colours encode coordinates.

Whatever a processor does (resize, crop, pad, split into tiles, with any settings), it also does to this picture. Red
and green encode the horizontal and vertical position, blue separates picture from padding. A line fitted to the result
tells, to a fraction of a patch, which pixels of the picture the model sees where.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..errors import SparseSightError

if TYPE_CHECKING:
    from jaxtyping import Float

FULL = 254.0  # blue of what is purely picture
Window = tuple[float, float, float, float]


@dataclass(frozen=True)
class Plane:
    """Pixels as the model gets them: their column ``i`` begins at ``left + i * across`` pixels of the picture.

    ``nan`` where the plane shows nothing but padding.
    """

    width: int
    height: int
    left: float
    across: float
    top: float
    down: float

    def columns(self, cell: int) -> Float[np.ndarray, "columns 2"]:
        """Edges of columns that are ``cell`` pixels broad; the rest that fills none is left out."""
        return self._edges(self.left, self.across, self.width // cell, cell)

    def rows(self, cell: int) -> Float[np.ndarray, "rows 2"]:
        return self._edges(self.top, self.down, self.height // cell, cell)

    @staticmethod
    def _edges(start: float, step: float, count: int, cell: int) -> Float[np.ndarray, "count 2"]:
        edge = start + step * cell * np.arange(count + 1)
        return np.stack((edge[:-1], edge[1:]), 1)

    @property
    def box(self) -> Window:
        return (
            self.left,
            self.top,
            self.left + self.across * self.width,
            self.top + self.down * self.height,
        )


def coordinates(width: int, height: int, window: Window) -> Image.Image:
    """A picture that tells the place of each of its pixels, as shares of the ``window`` of it that matters."""
    left, top, right, bottom = window
    x = 255 * (np.arange(width) + 0.5 - left) / (right - left)
    y = 255 * (np.arange(height) + 0.5 - top) / (bottom - top)
    pixels = np.full((height, width, 3), 255, dtype=np.uint8)
    pixels[..., 0] = np.clip(np.round(x), 0, 255)
    pixels[..., 1] = np.clip(np.round(y), 0, 255)[:, None]
    return Image.fromarray(pixels)


def measure(
    process: Callable[[Image.Image], tuple[Any, list[np.ndarray]]], width: int, height: int
) -> tuple[Any, list[Plane]]:
    """What ``process`` makes of a picture of this size, and where its planes show it.

    Args:
        process: picture -> whatever it says, and planes of unscaled pixels [3, h, w] in 0..255.

    Raises:
        SparseSightError: if the pixels cannot be read.
    """
    window: Window = (0.0, 0.0, float(width), float(height))
    said, planes = _measured(process, width, height, window)
    # Where little of a long picture is seen, 256 levels for all of it are coarse: once more, for that part.
    seen = [p.box for p in planes if np.isfinite(p.left) and np.isfinite(p.top)]
    if not seen:
        raise SparseSightError("the image processor produced no pixels from a picture of coordinates")
    low = np.min([box[:2] for box in seen], 0)
    high = np.max([box[2:] for box in seen], 0)
    if min((high - low) / (width, height)) < 0.5:
        spare = 0.1 * (high - low) + 1
        low, high = np.maximum(low - spare, 0), np.minimum(high + spare, (width, height))
        said, planes = _measured(process, width, height, (*low, *high))
    return said, planes


def _measured(
    process: Callable[[Image.Image], tuple[Any, list[np.ndarray]]], width: int, height: int, window: Window
) -> tuple[Any, list[Plane]]:
    said, planes = process(coordinates(width, height, window))
    if max(float(plane.max()) for plane in planes) < FULL:
        raise SparseSightError("the image processor rescales pixels though it is asked not to")
    found = []
    for plane in planes:
        pixels = np.asarray(plane, dtype=np.float64)
        left, across = _line(pixels[0], pixels[2], (window[0], window[2]), width)
        top, down = _line(pixels[1].T, pixels[2].T, (window[1], window[3]), height)
        found.append(Plane(plane.shape[2], plane.shape[1], left, across, top, down))
    return said, found


def _line(level: np.ndarray, blue: np.ndarray, window: tuple[float, float], size: int) -> tuple[float, float]:
    """Where column 0 of ``level`` [h, w] begins in the picture, and how much of it one column is."""
    real = blue >= FULL
    count = real.sum(0)
    at = np.flatnonzero(count)
    if not at.size:
        return np.nan, np.nan
    low, high = window
    seen = np.where(real, level, 0).sum(0)[at] / count[at]
    place = low + seen / 255 * (high - low)
    step = (place[-1] - place[0]) / max(at[-1] - at[0], 1)
    # Near its edges a resized picture is no straight line, and beyond the window there are no levels.
    margin = max(1.0, 2 * step)
    clear = (seen > 1) & (seen < 254) & (place > margin) & (place < size - margin)
    if clear.sum() < 8 or step <= 0:
        # A few pixels, blown up or drawn together: then all of them are seen, as far as there is any blue.
        profile = blue.max(0)
        padding = min(profile[0], profile[-1])
        share = np.clip((profile - padding) / (255 - padding), 0, 1) if padding < FULL else profile / 255
        step = size / share.sum()
        centre = (share * (np.arange(len(share)) + 0.5)).sum() / share.sum()
        return float(size / 2 - centre * step), float(step)
    slope, start = np.polyfit(at[clear] + 0.5, place[clear], 1)
    return float(start), float(slope)
