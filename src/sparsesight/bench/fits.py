"""The largest batch and the longest prompt that fit into memory, from measured peaks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from .sweep import Row, asked, heads, lines
from .table import Table

MOST = {"batch": "largest batch", "visual": "most visual tokens"}


@dataclass(frozen=True)
class Fit:
    """How much fits.

    Attributes:
        count: the largest whole number whose peak fits; None where even the smallest measured one does not.
        how: from which measurements that follows.
    """

    count: int | None
    how: str


def largest(sizes: Sequence[int], peaks: Sequence[int], room: float) -> Fit:
    """The largest size whose peak is within ``room``, taking peaks to be linear between neighbours.

    Beyond the largest measured size the line through the last two goes on, which is right for a batch, and for visual
    tokens as long as no attention matrix is held (sdpa, flash).

    Args:
        sizes: two or more that were measured, ascending.
        peaks: bytes of each.
        room: bytes that there are.
    """
    if room < peaks[0]:
        return Fit(None, f"{sizes[0]} does not fit")
    spans = list(pairwise(zip(sizes, peaks, strict=True)))
    (low, bottom), (high, top) = next(((a, b) for a, b in spans if room < b[1]), spans[-1])
    how = f"{'between' if room < top else 'beyond'} {low} and {high}"
    if top <= bottom:
        return Fit(None, f"{how}: peaks do not grow")
    return Fit(math.floor(low + (room - bottom) * (high - low) / (top - bottom)), how)


def fits(rows: Sequence[Row], memory: float | None) -> list[Table]:
    """For each of batch and visual tokens that the rows vary, what fits into ``memory`` GB with the weights; nothing if
    it is None."""
    made: list[Table] = []
    if memory is None:
        return made
    for axis, what in MOST.items():
        cells = []
        for line in lines(rows, axis):
            room = 1e9 * memory - line.rows[0]["weights_bytes"]
            dense, sparse = (
                largest(line.sizes, [row[f"peak_{kind}_bytes"] for row in line.rows], room)
                for kind in ("dense", "sparse")
            )
            ratio = "-" if not dense.count or not sparse.count else f"{sparse.count / dense.count:.2f}x"
            counts = ["-" if fit.count is None else str(fit.count) for fit in (sparse, dense)]
            cells.append([*line.which, *counts, ratio, sparse.how, dense.how])
        if cells:
            title = f"What fits into {memory:g} GB with the weights, from measured peaks taken as linear"
            which = heads(axis, asked(rows))
            made.append(Table(title, [*which, what, "dense", "ratio", "from peaks at", "dense from"], cells))
    return made
