"""The probe of mixed scenes: its controls, whole pictures, and a run that goes on where it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sparsesight.eval.records import Item

from .conftest import script

ICONS, OTHER, PAIR, NEXT = (
    Image.new("RGB", (336, 336), color) for color in ("red", "green", "blue", "white")
)


@pytest.fixture(scope="module")
def probe_mixed() -> Any:
    return script("probe_mixed")


def item(number: int, unit: str, kind: str, asked: str, request: Any) -> Item:
    return Item(str(number), "What is it?", "star", unit, tags=(kind, asked), request=request)


ITEMS = [
    item(0, "a", "icons", "name", ICONS),
    item(1, "a", "icons", "count", ICONS),
    item(2, "b", "pairs", "both", (PAIR, PAIR)),
    item(3, "c", "icons", "name", OTHER),
    item(4, "d", "pairs", "both", (NEXT, NEXT)),
]


def test_grey_pictures_are_as_many_as_the_own_ones(probe_mixed: Any) -> None:
    shown = [one.request for one in probe_mixed.grey(ITEMS)]
    assert [len(request) for request in shown] == [1, 1, 2, 1, 2]
    assert {request[0].getpixel((0, 0)) for request in shown} == {(128, 128, 128)}


def test_a_wrong_picture_is_the_next_of_its_kind(probe_mixed: Any) -> None:
    shown = [one.request for one in probe_mixed.exchanged(ITEMS)]
    assert shown == [OTHER, OTHER, (NEXT, NEXT), ICONS, (PAIR, PAIR)]
    with pytest.raises(ValueError, match="two pictures of 'icons'"):
        probe_mixed.exchanged(ITEMS[:2])


def test_questions_alone(probe_mixed: Any) -> None:
    assert {one.request for one in probe_mixed.without(ITEMS)} == {()}


@pytest.mark.parametrize(("wanted", "taken"), [(1, 2), (2, 2), (3, 3), (99, 5)])
def test_pictures_are_asked_about_whole(probe_mixed: Any, wanted: int, taken: int) -> None:
    assert probe_mixed.whole_pictures(ITEMS, wanted) == ITEMS[:taken]


def test_a_table_of_kinds(probe_mixed: Any) -> None:
    data: dict[str, Any] = {
        "subject": {"weights": "0123"},
        "made_with": {"date": "today"},
        "cells": {"set": {"0": 1.0, "1": 0.0, "2": 1.0, "3": 0.5, "4": 1.0, "from before": 0.0}},
    }
    pairs = [item(number, str(number), "pairs", "both", (PAIR, PAIR)) for number in range(5, 11)]
    data["cells"]["others"] = {one.id: 1.0 for one in pairs}
    lines = probe_mixed.markdown(data, {"set": ITEMS, "others": pairs}).splitlines()
    assert "weights 0123, date today" in lines
    assert "| pairs both | 1.00 (no interval), n 2 | 1.00 (1.00 to 1.00), n 6 |" in lines
    assert "| icons count | 0.00 (no interval), n 1 |  |" in lines
    assert "| icons | 0.50 (no interval), n 3 |  |" in lines


def test_a_run_goes_on(probe_mixed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []

    def answered(loaded: Any, name: str, items: list[Item], size: int) -> dict[str, float]:
        if len(asked) == 1:
            raise KeyboardInterrupt
        asked.append((name, len(items)))
        return {one.id: 1.0 for one in items}

    monkeypatch.setattr(probe_mixed, "answered", answered)
    monkeypatch.setattr(probe_mixed, "some_items", lambda name, questions: ITEMS)
    arguments = [
        "probe_mixed.py",
        "--out",
        str(tmp_path / "new" / "folder"),
        "--tasks",
        "scenes-mixed",
        "--batch",
        "1",
    ]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(KeyboardInterrupt):
        probe_mixed.main()
    assert not (tmp_path / "new" / "folder" / "probes.md").exists()
    asked.clear()
    monkeypatch.setattr(
        probe_mixed, "answered", lambda *a: asked.append((a[1], len(a[2]))) or {o.id: 1.0 for o in a[2]}
    )
    probe_mixed.main()
    first, *controls = asked
    assert first == ("scenes-mixed", 1)  # the other four were answered before
    assert [name for name, _ in controls] == [
        f"scenes-mixed, {name}" for name in probe_mixed.CONTROLS for _ in range(2)
    ]
    assert len(json.loads((tmp_path / "new" / "folder" / "probes.json").read_text())["cells"]) == 4
    assert "| icons | 1.00 (no interval), n 3 |" in (tmp_path / "new" / "folder" / "probes.md").read_text()
