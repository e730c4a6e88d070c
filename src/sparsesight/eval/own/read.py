"""Reads rows from files: JSONL, CSV, folders of pictures, datasets on disk."""

from __future__ import annotations

import csv
import os
import stat
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from ...errors import SparseSightError, brief, reason
from ...files import parse_json
from .rows import MAX_ROWS, Row, collect, make_row
from .sources import Cell, Source, file_beside

JSONL, CSV = ".jsonl", ".csv"
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
DATASET = ("state.json", "dataset_info.json")  # what `Dataset.save_to_disk` writes
MAX_LINE = 1 << 20  # bytes of a row
COLUMNS = ("image", "images", "question", "messages", "answer", "group")

Made = Iterator[tuple[str, Callable[[], Row]]]


def is_own(task: str) -> bool:
    """Whether a name of ``--tasks`` is own data: a ``.jsonl`` or ``.csv`` file, or a folder, written with a slash."""
    return task.lower().endswith((JSONL, CSV)) or "/" in task or os.sep in task


def read_rows(
    path: str | os.PathLike[str], question: str | None = None, limit: int | None = None
) -> list[Row]:
    """The rows of own data.

    Args:
        path: a file or folder.
        question: asked about every picture of a folder.
        limit: rows to take, the first ones; None for all.

    Raises:
        SparseSightError: naming the file, every bad row by its number, and what to write instead.
    """
    place = Path(os.path.expanduser(os.fspath(path)))
    name = str(place)
    try:
        mode = place.stat().st_mode
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise SparseSightError(f"{brief(name)} cannot be read ({why}): check the path of the rows") from None
    folder = stat.S_ISDIR(mode)
    dataset = folder and all((place / x).is_file() for x in DATASET)
    if question is not None and (dataset or not folder):
        raise SparseSightError(
            f"--question goes with a folder of pictures; the rows of {name!r} have their own"
        )
    if dataset:
        return collect(_dataset(place), name, limit)
    if folder and (place / "dataset_dict.json").is_file():
        raise SparseSightError(f"{name!r} holds several splits of a dataset: name the folder of one of them")
    if folder:
        return collect(_folder(place, question), name, limit)
    if not stat.S_ISREG(mode):
        raise SparseSightError(f"{name!r} is not a regular file: copy the rows to one")
    kind = place.suffix.lower()
    if kind not in (JSONL, CSV):
        raise SparseSightError(
            f"{name!r}: rows are read from .jsonl, .csv, a folder of pictures or a dataset's"
        )
    try:
        with place.open(encoding="utf-8-sig", newline="" if kind == CSV else None) as file:
            return collect((_csv if kind == CSV else _jsonl)(file, place), name, limit)
    except csv.Error as error:
        raise SparseSightError(
            f"{name!r} cannot be read as CSV ({reason(error)}): quote cells that hold commas, quotes or line breaks, "
            "and keep each below 131,072 characters"
        ) from None
    except (UnicodeDecodeError, OSError) as error:
        raise SparseSightError(f"{name!r} cannot be read ({reason(error)}): write it as UTF-8") from None


def _jsonl(file: IO[str], path: Path) -> Made:
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        where = f"line {number}"
        if len(line) > MAX_LINE:
            raise SparseSightError(f"{str(path)!r}, {where}: longer than {MAX_LINE:,} characters")
        if line.strip():
            yield where, partial(_of_line, line, where, number, path.parent)


def _of_line(line: str, where: str, number: int, folder: Path) -> Row:
    return make_row(parse_json(line, dict, "it"), where, number, _files_in(folder))


def _csv(file: IO[str], path: Path) -> Made:
    table = csv.DictReader(file, strict=True, skipinitialspace=True)
    if not {"image", "images", "video"} & set(table.fieldnames or ()):
        raise SparseSightError(
            f"{str(path)!r}: its first line names no column image, images or video: write one such as "
            "image,question, with commas"
        )
    for fields in table:
        where = f"line {table.line_num}"
        yield where, partial(_of_cells, fields, where, table.line_num, path.parent)


def _of_cells(fields: dict[Any, Any], where: str, number: int, folder: Path) -> Row:
    if None in fields or None in fields.values():
        raise SparseSightError("has more or fewer cells than the first line has names")
    for name in ("images", "messages"):  # lists, as JSON
        if fields.get(name):
            fields = {**fields, name: parse_json(fields[name], list, name)}
    return make_row(fields, where, number, _files_in(folder))


def _folder(folder: Path, question: str | None) -> Made:
    if question is None or not question.strip():
        raise SparseSightError(
            f"{str(folder)!r} is a folder of pictures: give one --question for all of them"
        )
    names = sorted(x for x in os.listdir(folder) if x.lower().endswith(PICTURES))[: MAX_ROWS + 1]
    if not names:
        raise SparseSightError(f"{str(folder)!r} holds no pictures ({', '.join(PICTURES)})")
    for number, name in enumerate(names, 1):
        fields = {"image": name, "question": question}
        yield repr(name), partial(make_row, fields, name, number, _files_in(folder))


def _dataset(folder: Path) -> Made:
    if find_spec("datasets") is None:
        raise SparseSightError(
            f"{str(folder)!r} is a dataset: pip install datasets, or write its rows as JSONL"
        )
    import datasets

    try:
        table = datasets.load_from_disk(str(folder))
        for name in ("image", "images"):  # bytes: pictures are judged before they are decoded
            if name in table.column_names:
                table = table.cast_column(name, _undecoded(table.features[name], datasets))
        texts = table.select_columns([x for x in COLUMNS if x in table.column_names and x[:5] != "image"])
    except Exception as error:  # its readers raise whatever a malformed file leads them to
        raise SparseSightError(f"{str(folder)!r} cannot be loaded as a dataset ({reason(error)})") from None
    shown = next((x for x in ("images", "image") if x in table.column_names), None)
    if shown is None:
        raise SparseSightError(f"{str(folder)!r}: the dataset has no column image or images")
    for index in range(len(table)):
        where = f"row {index + 1}"
        yield where, partial(_of_table, table, texts, shown, index, where)


def _undecoded(feature: Any, datasets: Any) -> Any:
    bare = datasets.Image(decode=False)
    return [bare] if isinstance(feature, list) or hasattr(feature, "feature") else bare


def _of_table(table: Any, texts: Any, shown: str, index: int, where: str) -> Row:
    value = table[index][shown]
    count = len(value) if isinstance(value, list) else 1

    def place(name: str, value: Any) -> list[Source]:
        return [Cell(table, index, name, i, f"{where}, {name} {i + 1}") for i in range(count)]

    return make_row({**texts[index], shown: value}, where, index + 1, place)


def _files_in(folder: Path) -> Callable[[str, Any], list[Source]]:
    def place(name: str, value: Any) -> list[Source]:
        files: list[Source] = [
            file_beside(folder, x, clip=name == "video") for x in (value if name == "images" else [value])
        ]
        return files

    return place
