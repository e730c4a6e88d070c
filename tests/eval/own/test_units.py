"""Which own rows are one unit, and what of them is part of a task's fingerprint."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sparsesight.eval.own.read import read_rows
from sparsesight.eval.own.rows import make_item, unit_noun
from sparsesight.eval.own.sources import File


def picture(path: Path, color: str) -> Path:
    Image.new("RGB", (8, 8), color).save(path)
    return path


def units(file: Path) -> list[int]:
    """Of each row, the first row of its unit."""
    found = [make_item(row).unit for row in read_rows(file)]
    return [found.index(unit) for unit in found]


def written(folder: Path, *rows: dict[str, Any]) -> Path:
    file = folder / "my.jsonl"
    file.write_text("\n".join(json.dumps({"question": "?", **row}) for row in rows))
    return file


def test_rows_that_share_a_picture_are_one_unit(tmp_path: Path) -> None:
    """By its content: a promise that takes them for independent is worth less than it says."""
    (tmp_path / "in").mkdir()
    for name, color in (("a.png", "red"), ("b.png", "lime"), ("c.png", "blue"), ("d.png", "black")):
        picture(tmp_path / name, color)
    shutil.copy(tmp_path / "a.png", tmp_path / "copy.png")
    file = written(
        tmp_path,
        {"image": "a.png"},
        {"image": "in/../a.png"},
        {"image": "copy.png"},
        {"image": "b.png"},
        {"images": ["c.png", "b.png"]},
        {"image": "d.png"},
        {"image": "c.png"},
    )
    assert units(file) == [0, 0, 0, 3, 3, 5, 3]


@pytest.mark.parametrize(
    ("files", "noun"),
    [
        (["a.png", "b.png"], "question"),
        (["a.png", "a.png", "b.png"], "picture"),
        ([["a.png", "b.png"], "b.png"], "group"),
    ],
)
def test_what_a_unit_is_called(files: list[Any], noun: str, tmp_path: Path) -> None:
    picture(tmp_path / "a.png", "red")
    picture(tmp_path / "b.png", "blue")
    file = written(tmp_path, *({"images" if isinstance(x, list) else "image": x} for x in files))
    rows = read_rows(file)
    assert unit_noun(rows) == noun
    if noun == "picture":
        assert unit_noun([replace(row, group="one") for row in rows]) == "group"
        clips = [replace(row, turns=(("user", (File(Path("a.mp4"), clip=True),)),)) for row in rows]
        assert unit_noun(clips) == "clip" and unit_noun([*clips, *rows]) == "group"


def test_a_dataset_that_repeats_its_pictures(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    data = {"image": [red, blue, red], "question": ["a", "b", "c"]}
    datasets.Dataset.from_dict(data).save_to_disk(str(tmp_path / "set"))
    assert units(tmp_path / "set") == [0, 1, 0]


def test_other_pictures_or_earlier_turns_are_other_data(tmp_path: Path) -> None:
    """A run that is resumed must not mix the answers to both."""

    def content(said: str) -> str:
        turns = [
            {"role": "user", "content": "What?"},
            {"role": "assistant", "content": said},
            {"role": "user", "content": "Sure?"},
        ]
        row = {"image": "a.png", "messages": turns, "question": None}
        return make_item(read_rows(written(tmp_path, row))[0]).content

    picture(tmp_path / "a.png", "red")
    red = content("Red.")
    assert red == content("Red.") != content("Blue.")
    picture(tmp_path / "a.png", "blue")
    assert content("Red.") != red
