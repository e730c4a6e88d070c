"""The pictures that were drawn by hand: twenty rows, which own data takes and of which no two look alike."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import drawn_rows
from sparsesight.eval.own.read import read_rows
from sparsesight.eval.tune.alike import find_alike


def test_twenty_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["drawn_rows.py", str(tmp_path)])
    drawn_rows.main()
    rows = read_rows(tmp_path / "rows.jsonl")
    assert len(rows) == len({row.unit for row in rows}) == 20 and all(row.answer for row in rows)
    assert find_alike(rows) is None
