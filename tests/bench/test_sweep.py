"""Lines of rows that differ in one axis."""

from __future__ import annotations

from typing import Any

from sparsesight.bench.sweep import heads, lines


def row(visual: int, batch: int, depth: int, retain: int = 8) -> dict[str, Any]:
    return {"method": "random", "retain": retain, "visual": visual, "batch": batch, "depth": depth}


def test_lines_are_ascending_and_hold_everything_else_fixed() -> None:
    rows = [row(400, 1, 6), row(100, 1, 6), row(100, 4, 6), row(200, 1, 6, retain=9)]
    (visual,) = lines(rows, "visual")
    assert visual.sizes == [100, 400] and visual.rows == [rows[1], rows[0]]
    assert visual.fixed == {"batch": 1, "depth": 6} and visual.which == ["random", "8", "1", "6"]
    (batch,) = lines(rows, "batch")
    assert batch.sizes == [1, 4] and heads("batch") == ["method", "retain", "visual", "depth"]
    assert lines(rows, "depth") == []
