"""Exponents and drawings of what grows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")

from benchmarks.growth import COLUMNS, draw, drawings, main, panels, slopes
from benchmarks.growth import exponent as exponent_of
from sparsesight.bench.sweep import lines


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
        "first_token_sparse_ms": 2.0 * visual,
        "first_token_sparse_cpu_ms": 3.0 * visual,
        "first_token_dense_ms": 4.0 * visual,
        "first_token_dense_cpu_ms": 5.0 * visual,
        "peak_dense_bytes": visual * batch,
        "kv_dense_bytes": visual * batch * depth,
        "overhead_share": 0.1,
        "overhead_share_cpu": 0.2,
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


def test_growth_is_drawn_along_each_axis(tmp_path: Path) -> None:
    """Rows of several runs are taken together; each other axis that varies has drawings of its own."""
    config = {"subject": "random", "threads": 1}
    paths = []
    for batch in (1, 4):
        paths.append(tmp_path / f"{batch}.json")
        paths[-1].write_text(json.dumps({"config": config, "rows": [row(100, batch, 6), row(200, batch, 6)]}))
    main([*map(str, paths), "--out", str(tmp_path / "new")])
    names = ["visual-batch1", "visual-batch4", "batch-visual100", "batch-visual200"]
    pictures = [tmp_path / "new" / f"growth-{name}.png" for name in names]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)
    page = (tmp_path / "new" / "growth.md").read_text()
    assert "subject random, threads 1" in page
    assert "## Growth with visual tokens: exponents" in page and "## Growth with prompts per forward" in page
    assert list(drawings([row(100, 1, 6), row(200, 1, 6)])) == ["visual"]


@pytest.mark.parametrize("processor", [False, True])
def test_lines_of_the_drawing_are_the_rows(processor: bool) -> None:
    rows = [row(visual, 1, 6, retain) for visual in (36, 64) for retain in (8, 9)]
    figure = draw(lines(rows[::-1], "visual"), "visual", processor)
    for axes, (title, _, sparse, dense, scale) in zip(figure.axes, panels(processor), strict=True):
        assert axes.get_title() == title
        drawn = {str(line.get_label()).split(":")[0]: line for line in axes.get_lines()}
        assert len(drawn) == 2 + (dense is not None)
        line = drawn["random, retain 8"]
        values = [rows[0][sparse] / scale, rows[2][sparse] / scale]
        assert list(line.get_xdata()) == [36, 64] and list(line.get_ydata()) == values
        if dense is not None:
            assert str(line.get_label()).endswith(f": n^{exponent_of([36, 64], values):.2f}")
            assert list(drawn["dense"].get_ydata())[1] == rows[2][dense] / scale
