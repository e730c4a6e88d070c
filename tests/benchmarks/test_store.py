"""The store goes on where a run was stopped, and only if it is the same run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from benchmarks.probing.store import Store
from sparsesight.scenes.dataset import examples

ASKED = list(examples("test", 3))
MARKS = np.arange(len(ASKED)) % 3 == 0
SUBJECT = {"model_sha256": "a", "scenes_version": 2}


def filled(path: Path) -> Store:
    store = Store(path, SUBJECT)
    store.keep_marks("dense/test", ASKED, MARKS)
    store.keep_part("accuracy", {"share": 0.5})
    return store


def test_finished_cells_come_back(tmp_path: Path) -> None:
    filled(tmp_path / "new" / "probes.json")
    again = Store(tmp_path / "new" / "probes.json", SUBJECT)
    marks = again.marks("dense/test", ASKED)
    assert marks is not None and np.array_equal(marks, MARKS)
    assert again.parts == {"accuracy": {"share": 0.5}}
    assert again.marks("dense/test-b", ASKED) is None
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["probes.json"]


def test_other_questions_are_asked_anew(tmp_path: Path) -> None:
    store = filled(tmp_path / "probes.json")
    assert store.marks("dense/test", list(examples("test", 2))) is None
    assert store.marks("dense/test", list(examples("test", 4))) is None


def test_another_subject_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "probes.json"
    filled(path)
    assert Store(path, {**SUBJECT, "model_sha256": "b"}).marks("dense/test", ASKED) is None
    assert Store(path, SUBJECT, fresh=True).parts == {}
    assert Store(path, SUBJECT).parts != {}  # nothing was overwritten yet


def test_a_cell_is_one_line_of_the_file(tmp_path: Path) -> None:
    store = filled(tmp_path / "probes.json")
    store.keep_part("accuracy", {"all": {"n": 5, "share": 0.5}, "kinds": ["a", "b"]})
    text = store.path.read_text(encoding="utf-8")
    assert json.loads(text) == store.data
    assert any('"all": { "n": 5, "share": 0.5 }' in line for line in text.splitlines())
    cell = next(line for line in text.splitlines() if "dense/test" in line)
    assert cell.rsplit(": ", 1)[1].count(" ") >= 2
