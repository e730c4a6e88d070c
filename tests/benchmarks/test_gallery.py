"""The gallery's page: what it shows is there, small, and what it tells to type runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from PIL import Image

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "gallery"
PAGE = (FOLDER / "README.md").read_text(encoding="utf-8")


def test_every_picture_is_there_and_no_other() -> None:
    shown = set(re.findall(r"!\[[^\]]+\]\(([^)]+)\)", PAGE))
    there = {path.name for path in FOLDER.iterdir()} - {"README.md"}
    assert shown == there and len(shown) >= 6
    assert sum((FOLDER / name).stat().st_size for name in shown) < 1_200_000
    for name in shown:
        if not name.endswith(".svg"):
            with Image.open(FOLDER / name) as picture:
                picture.load()


def test_the_start_page_has_a_picture_for_desktops_and_one_for_phones() -> None:
    start = FOLDER.parent / "index.md"
    shown = re.findall(r'(?:srcset|src)="([^"]+\.jpg)"', start.read_text(encoding="utf-8"))
    assert len(shown) == 2
    phone, desktop = (Image.open(start.parent / name).width for name in shown)
    assert phone < 520 < desktop  # its letters are of 18 pixels, and the phone shows it at 358


def test_its_code_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    names: dict[str, Any] = {}
    exec(code, names)
    seen = names["seen"]
    assert len(seen.stages) == 3 and any(word.rates for word in seen.words)
    said = re.search(r"The model answers \"(\w+)\"", PAGE)
    assert said is not None
