"""Pictures that are nearly the same, such as frames of one video: their rows are hardly independent of each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..own.rows import Row, decoded

if TYPE_CHECKING:
    from PIL.Image import Image

EDGE = 16  # of the small pictures that are compared
# Root mean square difference of two small pictures, as a share of their contrast. Frames of a rendered clip, in which
# one object of 14 has moved, have 0.22 to 0.3; a picture cut by 6 pixels of 336 has 0.23; of 300 scenes no two
# have less than 1.09.
NEAR = 0.35
LEAST = 1.0  # grey levels of 255: what saving a flat picture once more may change
BLOCK = 512  # pictures that are compared at a time
NAMED = 3  # pairs that a message names

Small = NDArray[np.float32]


@dataclass(frozen=True)
class Alike:
    """Rows of different units whose pictures are nearly the same.

    Attributes:
        rows: how many rows are in units with such a picture.
        units: how many units those are.
        groups: how many units are left if those are joined.
        pairs: where the first few lie.
    """

    rows: int
    units: int
    groups: int
    pairs: tuple[tuple[str, str], ...]

    def sentence(self) -> str:
        """What was found, what it does to the promise, and what to do."""
        named = "; ".join(f"{one} and {other}" for one, other in self.pairs)
        return (
            f"{self.rows} rows show pictures that are nearly the same as those of other rows ({named}), such as frames "
            f"of one video. Here they count as {self.units} independent pictures, though they make {self.groups} "
            'groups: the promise may claim too much. Give rows of one origin the same "group", or take one of each'
        )


def find_alike(rows: Sequence[Row], progress: Callable[[Row], None] = lambda row: None) -> Alike | None:
    """Which rows show nearly the same as rows of other units; None if none do.

    Pictures are compared at 16 x 16 pixels. Clips are not opened.

    Args:
        rows: of one data set.
        progress: called with each row whose pictures were read.

    Raises:
        SparseSightError: pictures that are damaged behind their headers; naming the rows.
    """
    units: list[str] = []
    found: list[Small] = []
    where: list[str] = []
    for row, picture in decoded(rows, progress):
        found.append(_small(picture))
        units.append(row.unit)
        where.append(row.where)
    if len(found) < 2:
        return None
    pairs = near_pairs(np.stack(found))
    pairs = [(a, b) for a, b in pairs if units[a] != units[b]]
    if not pairs:
        return None
    parent = {units[x]: units[x] for pair in pairs for x in pair}

    def first(unit: str) -> str:
        while parent[unit] != unit:
            parent[unit] = unit = parent[parent[unit]]
        return unit

    for a, b in pairs:
        parent[first(units[b])] = first(units[a])
    return Alike(
        rows=sum(row.unit in parent for row in rows),
        units=len(parent),
        groups=len({first(unit) for unit in parent}),
        pairs=tuple((where[a], where[b]) for a, b in pairs[:NAMED]),
    )


def near_pairs(pictures: Small) -> list[tuple[int, int]]:
    """Pairs of pictures that differ by little of their contrast, in the order of the first and second.

    Args:
        pictures: float32 [n, values], from 0 to 255.

    A picture is compared with its predecessors in order of brightness; whole blocks whose brightness differs by more
    than :data:`NEAR` allows are passed over.
    """
    bright = pictures.mean(1)
    contrast = pictures.std(1)
    order = np.argsort(bright, kind="stable")
    pictures, bright, contrast = pictures[order], bright[order], contrast[order]
    limit = np.maximum(NEAR * contrast, LEAST)
    squares = (pictures.astype(np.float64) ** 2).mean(1)
    found: list[tuple[int, int]] = []
    starts = range(0, len(pictures), BLOCK)
    for a in starts:
        one = slice(a, a + BLOCK)
        for b in starts[: a // BLOCK + 1]:
            two = slice(b, b + BLOCK)
            if bright[one][0] - bright[two][-1] > limit[one].max():
                continue
            means = pictures[one] @ pictures[two].T / pictures.shape[1]
            gaps = squares[one, None] + squares[None, two] - 2 * means
            near = gaps <= np.minimum(limit[one, None], limit[None, two]) ** 2
            found += [(a + i, b + j) for i, j in np.argwhere(near).tolist() if a + i > b + j]
    pairs = [(int(order[i]), int(order[j])) for i, j in found]
    return sorted((min(pair), max(pair)) for pair in pairs)


def _small(picture: Image) -> Small:
    small = picture.resize((EDGE, EDGE), resample=4)  # box: the mean of what a pixel covers
    return np.asarray(small, dtype=np.float32).ravel()
