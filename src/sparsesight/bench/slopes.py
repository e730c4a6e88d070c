"""How steeply costs grow with what a sweep varies, beside what the arithmetic demands."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import linear_regression

from .sweep import AXES, Row, heads, lines
from .table import Table

LAST = 3  # so many of the largest sizes: small ones are bent by what does not grow at all


def exponent(sizes: Sequence[int], values: Sequence[float]) -> float | None:
    """The ``e`` of ``size**e`` through the last values, by least squares of logarithms; None if one is not positive."""
    sizes, values = sizes[-LAST:], values[-LAST:]
    if min(values) <= 0:
        return None
    return linear_regression([math.log(x) for x in sizes], [math.log(y) for y in values]).slope


# What is measured, and behind it what there has to be.
COLUMNS: tuple[tuple[str, Callable[[Row], float]], ...] = (
    ("prefill", lambda row: row["prefill_sparse_ms"]),
    ("(processor)", lambda row: row["prefill_sparse_cpu_ms"]),
    ("FLOPs", lambda row: row["macs_sparse"]),
    ("dense", lambda row: row["prefill_dense_ms"]),
    ("(processor)", lambda row: row["prefill_dense_cpu_ms"]),
    ("FLOPs", lambda row: row["macs_dense"]),
    ("peak", lambda row: row["peak_sparse_bytes"]),
    ("at least", lambda row: row["least_peak_sparse_bytes"]),
    ("KV held", lambda row: row["kv_held_sparse_bytes"]),
    ("at least", lambda row: row["kv_sparse_bytes"]),
    ("overhead (processor)", lambda row: sum(row["overhead_us_cpu"].values())),
    ("its FLOPs", lambda row: row["macs_overhead"]),
)


def slopes(rows: Sequence[Row]) -> list[Table]:
    """A table for each axis that the rows vary; a line of it is a method and a budget."""
    made = []
    for axis, what in AXES.items():
        cells = []
        for line in lines(rows, axis):
            found = [exponent(line.sizes, [of(row) for row in line.rows]) for _, of in COLUMNS]
            cells.append([*line.which, *("-" if x is None else f"{x:.2f}" for x in found)])
        if cells:
            title = f"Growth with {what}: exponents over the {LAST} largest (1: linear), measured, and as it has to be"
            made.append(Table(title, [*heads(axis), *(name for name, _ in COLUMNS)], cells))
    return made
