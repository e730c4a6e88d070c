"""Local copies of benchmarks: damaged files get a sentence, and data name nothing outside of their folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sparsesight import SparseSightError
from sparsesight.eval.lmms.local_data import _clip_settings, _inside

DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize("name", ["test_q.json", "test_a.json"])
@pytest.mark.parametrize(
    "text", ["", "{}", "3", "[3]", "[{}]", "x", DEEP, "[Infinity]", "[" + "9" * 5000 + "]"]
)
def test_damaged_questions_of_clips(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "clips").mkdir()
    for file in ("test_q.json", "test_a.json"):
        (tmp_path / file).write_text("[]")
    (tmp_path / name).write_text(text)
    with pytest.raises(SparseSightError, match=name) as caught:
        _clip_settings(tmp_path, {"clips": ["clips"]})
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("path", ["/etc/passwd", "../a.png", "a/../../b.png", None, 3, ["a"]])
def test_a_picture_outside_of_the_data(tmp_path: Path, path: Any) -> None:
    with pytest.raises(SparseSightError, match="outside"):
        _inside(path, tmp_path)
    assert _inside("a/b.png", tmp_path) == "a/b.png"
