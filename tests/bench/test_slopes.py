"""Exponents of what grows, and lines of rows that differ in one axis."""

from __future__ import annotations

from typing import Any

import pytest

from sparsesight.bench.slopes import COLUMNS, slopes
from sparsesight.bench.slopes import exponent as exponent_of
from sparsesight.bench.sweep import heads, lines


@pytest.mark.parametrize("exponent", [0.0, 1.0, 1.7, 2.0])
def test_the_exponent_of_a_power(exponent: float) -> None:
    sizes = [576, 1152, 2304, 9216]
    assert exponent_of(sizes, [3e-4 * x**exponent for x in sizes]) == pytest.approx(exponent)


def test_only_the_largest_sizes_count() -> None:
    assert exponent_of([1, 2, 4, 8], [100, 2, 4, 8]) == pytest.approx(1)
    assert exponent_of([2, 4], [1, 4]) == pytest.approx(2)
    assert exponent_of([1, 2, 4], [0, 1, 2]) is None


def row(visual: int, batch: int, depth: int, retain: int = 8) -> dict[str, Any]:
    quantities = {
        "prefill_sparse_ms": visual * batch * depth,
        "prefill_sparse_cpu_ms": visual * batch * depth,
        "macs_sparse": visual * batch * depth,
        "prefill_dense_ms": visual**2 * batch * depth,
        "prefill_dense_cpu_ms": visual**2 * batch * depth,
        "macs_dense": visual**2 * batch * depth,
        "peak_sparse_bytes": visual * batch,
        "least_peak_sparse_bytes": visual * batch,
        "kv_held_sparse_bytes": visual * batch * depth,
        "kv_sparse_bytes": visual * batch * depth,
        "overhead_us_cpu": {"scoring": visual * batch, "rest": visual * batch},
        "macs_overhead": 0,
    }
    return {
        "method": "random",
        "retain": retain,
        "visual": visual,
        "batch": batch,
        "depth": depth,
        **quantities,
    }


def test_a_table_for_each_axis_that_varies() -> None:
    made = slopes([row(100, 1, 6), row(200, 1, 6), row(400, 1, 6), row(100, 2, 6)])
    assert [table.title.split(":")[0] for table in made] == [
        "Growth with visual tokens",
        "Growth with prompts per forward",
    ]
    visual, batch = made
    assert visual.heads == ["method", "retain", "batch", "depth", *(name for name, _ in COLUMNS)]
    ones = ["1.00"] * 3
    assert visual.cells == [
        ["random", "8", "1", "6", *ones, "2.00", "2.00", "2.00", *ones, "1.00", "1.00", "-"]
    ]
    assert batch.cells[0][:4] == ["random", "8", "100", "6"] and batch.cells[0][7] == "1.00"
    assert slopes([row(100, 1, 6)]) == []


def test_memory_does_not_grow_with_depth_but_time_does() -> None:
    (depth,) = slopes([row(100, 1, d) for d in (6, 12, 24)])
    found = dict(zip(depth.heads, depth.cells[0], strict=True))
    assert found["prefill"] == "1.00" and found["peak"] == "0.00"


def test_lines_are_ascending_and_hold_everything_else_fixed() -> None:
    rows = [row(400, 1, 6), row(100, 1, 6), row(100, 4, 6), row(200, 1, 6, retain=9)]
    (visual,) = lines(rows, "visual")
    assert visual.sizes == [100, 400] and visual.rows == [rows[1], rows[0]]
    assert visual.fixed == {"batch": 1, "depth": 6} and visual.which == ["random", "8", "1", "6"]
    (batch,) = lines(rows, "batch")
    assert batch.sizes == [1, 4] and heads("batch") == ["method", "retain", "visual", "depth"]
    assert lines(rows, "depth") == []
