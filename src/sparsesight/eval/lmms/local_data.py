"""Local copies of benchmark data, used instead of the Hub's.

``data/<folder>/`` holds one data set. ``<folder>`` is the task's name or the last part of the data set's name on the
Hub, and its layout is that of a snapshot of the Hub: ``[<configuration>/][...]<split>[-00000-of-00004].parquet``, or
.json or .jsonl instead of parquet, in which pictures are given as paths relative to the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...errors import SparseSightError, brief
from ...files import read_json

KINDS = {".parquet": "parquet", ".json": "json", ".jsonl": "json"}
CLIPS = (".mp4", ".avi", ".mkv", ".webm", ".gif", ".mov")


def local_settings(task: str, base: Mapping[str, Any], data: Path) -> dict[str, Any]:
    """Settings that make a task read from ``data``.

    Raises:
        SparseSightError: if the data are not there; it names the folders that were searched.
    """
    path, name = base.get("dataset_path") or task, base.get("dataset_name")
    split = str(base.get("test_split") or base.get("validation_split")).strip()
    layout = (base.get("metadata") or {}) if isinstance(base.get("metadata"), dict) else {}
    root = _folder(data, [task, path.rpartition("/")[2], *layout.get("folders", ())])
    if "clips" in layout:
        return {**_clip_settings(root, layout), "test_split": "test"}
    files = find_split(root, name, layout.get("file", split))
    settings: dict[str, Any] = {
        "dataset_path": KINDS[files[0].suffix],
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {split: [str(file) for file in files]}},
        "process_docs": base.get("process_docs"),
    }
    if task == "gqa" or task.startswith("gqa_"):  # its own fetches the pictures from the Hub
        settings["process_docs"] = _gqa_pictures(
            find_split(root / str(name).replace("instructions", "images"), None, split)
        )
    elif files[0].suffix != ".parquet":
        settings["process_docs"] = _open_pictures(files[0].parent, base.get("process_docs"))
    return settings


def find_split(root: Path, name: str | None, split: str) -> list[Path]:
    """Files of one split of a data set.

    Raises:
        SparseSightError: if there are none.
    """
    where = root / name if name and (root / name).is_dir() else root
    pattern = re.compile(rf"{re.escape(split)}(-\d+-of-\d+)?")
    for kind in KINDS:
        files = sorted(f for f in where.rglob(f"*{kind}") if pattern.fullmatch(f.stem))
        if files:
            return files
    raise SparseSightError(
        f"{str(where)!r} has no {split}.parquet, {split}.json or {split}.jsonl: put the data there"
    )


def _folder(data: Path, names: list[str]) -> Path:
    for name in names:
        if (data / name).is_dir():
            return data / name
    tried = " or ".join(repr(name) for name in dict.fromkeys(names))
    raise SparseSightError(f"data={str(data)!r} has no folder {tried}: put the data set there")


def _gqa_pictures(files: list[Path]) -> Callable[[Any], Any]:
    """Puts the pictures, which GQA keeps once each in a table of their own, beside the questions about them."""

    def join(questions: Any) -> Any:
        import datasets

        pictures = datasets.load_dataset("parquet", data_files=[str(f) for f in files], split="train")
        row = {name: i for i, name in enumerate(pictures["id"])}
        missing = sorted({name for name in questions["imageId"] if name not in row})
        if missing:
            raise SparseSightError(f"GQA: {len(missing)} pictures are missing, the first is {missing[0]!r}")
        chosen = pictures.select([row[name] for name in questions["imageId"]]).select_columns("image")
        return datasets.concatenate_datasets([questions, chosen], axis=1)

    return join


def _open_pictures(folder: Path, then: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
    """Makes pictures of a JSON file's paths to them."""

    def opened(docs: Any) -> Any:
        import datasets

        for column in ("image", "img_path"):
            if column in docs.column_names:
                paths = [str(folder / _inside(path, folder)) for path in docs[column]]
                docs = docs.remove_columns(column).add_column("image", paths)
                docs = docs.cast_column("image", datasets.Image())
        return then(docs) if then else docs

    return opened


def _inside(path: Any, folder: Path) -> str:
    """A path of a data file, if it leads down from the folder of pictures."""
    if not isinstance(path, str) or Path(path).is_absolute() or ".." in Path(path).parts:
        raise SparseSightError(f"{str(folder)!r}: the data names a picture outside of it, {brief(path)}")
    return path


def _rows(file: Path, *columns: str) -> list[dict[str, Any]]:
    """The objects of a JSON file, each with ``columns``."""
    rows: list[Any] = read_json(file, list)
    for row in rows:
        if not isinstance(row, dict) or not row.keys() >= set(columns):
            raise SparseSightError(f"{file} is damaged ({brief(row)} lacks one of {', '.join(columns)})")
    return rows


def _clip_settings(root: Path, layout: Mapping[str, Any]) -> dict[str, Any]:
    """Of the clip benchmarks: ``test_q.json``, ``test_a.json`` and a folder of clips, as Video-LLaVA lays them out."""
    questions, answers = root / "test_q.json", root / "test_a.json"
    clips = next((root / name for name in layout["clips"] if (root / name).is_dir()), None)
    if clips is None or not questions.is_file() or not answers.is_file():
        raise SparseSightError(
            f"{str(root)!r} lacks one of test_q.json, test_a.json and a folder {' or '.join(layout['clips'])}"
        )
    names = {path.stem: str(path) for path in sorted(clips.iterdir()) if path.suffix.lower() in CLIPS}
    told = {str(row["question_id"]): row for row in _rows(answers, "question_id", "answer")}
    asked = _rows(questions, "question_id", "video_name", "question")
    rows, lost = [], []
    for question in asked:
        number, name = str(question["question_id"]), str(question["video_name"])
        clip, answer = names.get(layout.get("prefix", "") + name), told.get(number)
        if clip is None or answer is None:
            lost.append(number)
            continue
        rows.append(
            {
                "question_id": number,
                "video_name": name,
                "video": clip,
                "question": question["question"],
                "answer": str(answer["answer"]),
                "type": str(answer.get("type", "")),
            }
        )
    if lost:
        raise SparseSightError(
            f"{str(root)!r}: {len(lost)} of {len(asked)} questions have no answer or no clip, the first is {lost[0]!r}"
        )

    def joined(docs: Any) -> Any:
        import datasets

        return datasets.Dataset.from_list(rows)

    return {
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {"test": str(questions)}},
        "process_docs": joined,
    }
