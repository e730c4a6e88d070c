"""Scenes as own data."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import scene_rows
from sparsesight.eval.own.read import read_rows
from sparsesight.scenes.dataset import SPLITS


def test_scenes_are_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["scene_rows.py", str(tmp_path), "--scenes", "2"])
    scene_rows.main()
    rows = read_rows(tmp_path / "rows.jsonl")
    assert len(rows) == 2 and all(row.question.endswith("?") for row in rows)
    monkeypatch.setattr(
        sys, "argv", ["scene_rows.py", str(tmp_path / "x"), "--scenes", "2", "--kind", "count"]
    )
    scene_rows.main()
    assert all(row.question.startswith("How many") for row in read_rows(tmp_path / "x" / "rows.jsonl"))
    assert all(split.first_seed + split.scenes < 9_000_000 for split in SPLITS.values())
