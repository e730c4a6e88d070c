"""Small data sets in the real columns of the published ones, about the bundled pictures.

What the bundled model is asked here it was never trained on (instructions after the question, yes/no about MME's
categories), so tests take its answers as they come, and work with what the data say is right.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from sparsesight import bundled
from sparsesight.images import open_image


def asked(kinds: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Questions about the bundled pictures: their picture, its name, question and answer."""
    paths = {path.name: path for path in bundled.pictures()}
    return [
        {"picture": open_image(paths[name]), "name": Path(name).stem, **entry}
        for name, entries in bundled.picture_questions().items()
        for entry in entries
        if kinds is None or entry["kind"] in kinds
    ]


def write(path: Path, rows: Sequence[dict[str, Any]], **types: Any) -> None:
    """A parquet file as `datasets` writes it, with pictures in the columns that hold some."""
    import datasets

    path.parent.mkdir(parents=True, exist_ok=True)
    table = datasets.Dataset.from_list([{k: _plain(v) for k, v in row.items()} for row in rows])
    for column, value in rows[0].items():
        if isinstance(value, Image.Image):
            table = table.cast_column(column, datasets.Image())
        elif isinstance(value, list) and value and isinstance(value[0], Image.Image):
            table = table.cast_column(column, datasets.List(datasets.Image()))
    table.to_parquet(path)


def _plain(value: Any) -> Any:
    import io

    if isinstance(value, list):
        return [_plain(x) for x in value]
    if not isinstance(value, Image.Image):
        return value
    file = io.BytesIO()
    value.save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def write_json(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data), encoding="utf-8")
