"""The largest batch and the longest prompt that fit into a memory, from measured peaks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from .table import Row, Table

AXES = {"batch": "visual", "visual": "batch"}  # what grows, and what stays


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


def fits(rows: Sequence[Row], memory: float) -> list[Table]:
    """For each of batch and visual tokens that the rows vary, what fits into ``memory`` bytes with the weights.

    A row stands for a method, a budget and the other of the two.
    """
    made = []
    for axis, fixed in AXES.items():
        cells = []
        for key in dict.fromkeys((row["method"], row["retain"], row[fixed]) for row in rows):
            alike = [row for row in rows if (row["method"], row["retain"], row[fixed]) == key]
            alike.sort(key=lambda row: row[axis])
            sizes = [row[axis] for row in alike]
            if len(set(sizes)) < 2:
                continue
            room = memory - alike[0]["weights_bytes"]
            dense, sparse = (
                largest(sizes, [row[f"peak_{kind}_bytes"] for row in alike], room)
                for kind in ("dense", "sparse")
            )
            ratio = "-" if not dense.count or not sparse.count else f"{sparse.count / dense.count:.2f}x"
            counts = ["-" if fit.count is None else str(fit.count) for fit in (sparse, dense)]
            cells.append(
                [
                    key[0],
                    "" if key[1] is None else str(key[1]),
                    str(key[2]),
                    *counts,
                    ratio,
                    sparse.how,
                    dense.how,
                ]
            )
        if cells:
            what = {"batch": "largest batch", "visual": "most visual tokens"}[axis]
            heads = ["method", "retain", fixed, what, "dense", "ratio", "from peaks at", "dense from"]
            title = (
                f"What fits into {memory / 1e9:g} GB with the weights, from measured peaks taken as linear"
            )
            made.append(Table(title, heads, cells))
    return made
