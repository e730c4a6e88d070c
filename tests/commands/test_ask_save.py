"""``sparsesight ask --save``: the picture of what was kept, and where it cannot be made or saved."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from PIL import Image

from sparsesight.families import FAMILIES
from sparsesight.hf import loading
from tests.commands.command_line import (
    QUESTION,
    ask,
    asked,
    plain_surroundings,  # noqa: F401
    refused,
)
from tests.hf import tiny


def test_save() -> None:
    result = ask("--save", "kept.png")
    assert result.stdout.endswith("saved kept.png\n")
    with Image.open("kept.png") as sheet:
        assert sheet.format == "PNG"
        assert sheet.width > 4 * sheet.height / 2 > 1000  # picture, scores, two stages and the chart in a row
    assert asked("--save", "kept.jpg")["saved"] == "kept.jpg"
    assert Image.open("kept.jpg").format == "JPEG"


def test_save_a_drawing() -> None:
    found = asked("--save", "kept.svg")
    drawn = Path("kept.svg").read_text(encoding="utf-8")
    assert found["saved"] == "kept.svg" and "<svg" in drawn and drawn.count("<image") == 4


def test_without_matplotlib_a_picture_has_the_stages_and_a_drawing_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "matplotlib" else find(name, *a)
    )
    assert asked("--save", "kept.png")["saved"] == "kept.png"
    assert min(Image.open("kept.png").size) > 2 * 480  # the picture and its stages, two by two
    assert "pip install 'sparsesight[plots]'" in refused(ask("--save", "kept.svg"))


def test_save_an_animation() -> None:
    assert asked("--save", "kept.gif")["saved"] == "kept.gif"
    with Image.open("kept.gif") as moving:
        assert moving.format == "GIF" and moving.n_frames >= 3  # the picture and two stages


def test_save_a_page() -> None:
    found = asked("--save", "kept.html")
    page = Path("kept.html").read_text(encoding="utf-8")
    assert found["saved"] == "kept.html" and QUESTION in page
    assert f"<strong>{found['sparse']['answer']}</strong>" in page and page.count("<img ") >= 5


@pytest.mark.parametrize(
    ("target", "part"),
    [
        ("kept", "such as .png"),
        ("kept.xyz", ".html, .gif, .svg or a picture"),
        ("no/kept.png", "does not exist"),
        (".", "is a directory"),
    ],
)
def test_where_nothing_can_be_saved(target: str, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "load_model", lambda *_: pytest.fail("found out too late"))
    message = refused(ask("--save", target))
    assert part in message and repr(target) in message


def test_a_model_of_tiles_has_its_picture_too(tmp_path: Path) -> None:
    """It also has no chat template."""
    tiny.model("llava_next").save_pretrained(tmp_path / "m")
    tiny.processor("llava_next").save_pretrained(tmp_path / "m")
    what = ("what is the red ring ?", "--model", str(tmp_path / "m"), "--retain", "50%", "--save", "kept.png")
    result = ask(*what)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.endswith("saved kept.png\n") and Path("kept.png").exists()
    assert "whole" in result.stdout and "tiles" in result.stdout


def test_a_model_that_cannot_be_drawn_is_asked_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(FAMILIES, "llava_next")
    tiny.model("llava_next").save_pretrained(tmp_path / "m")
    tiny.processor("llava_next").save_pretrained(tmp_path / "m")
    what = ("what is the red ring ?", "--model", str(tmp_path / "m"), "--retain", "50%", "--save", "kept.png")
    result = ask(*what)
    assert result.exit_code == 0, result.stderr
    (line,) = [line for line in result.stdout.splitlines() if "no picture of what was kept" in line]
    assert "'llava_next'" in line
    assert not Path("kept.png").exists()
    result = ask(*what, "--json")
    found = json.loads(result.stdout)
    assert found["saved"] is None and len(found["kept"]) == 2
    assert result.stderr.startswith("note: ") and result.stderr.count("\n") == 1
