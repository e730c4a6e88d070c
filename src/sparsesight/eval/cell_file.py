"""The samples of one task under one method, on disk."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from ..errors import SparseSightError
from ..files import appending, check_inside, parse_json, read_json, read_text, replace_file
from .records import Answer, Sample, check_fields

_AGAIN = "what it held is answered again"


class CellFile:
    """The samples of a task under a method, first as answered batches, then as scored samples.

    Args:
        stem: path without suffix.
        rank: of the process that answers.
        root: the run folder, out of which no file of the cell may lead; by default the one they lie in.

    Raises:
        SparseSightError: a link, or what is no file, in place of a file.
    """

    def __init__(self, stem: Path, rank: int, root: Path | None = None) -> None:
        self.rank, self._root = rank, root or stem.parent
        self.final = stem.with_name(stem.name + ".jsonl")
        self._latency = stem.with_name(stem.name + ".latency.json")
        self._stem = stem
        for file in (self.final, self._latency):
            check_file(file, self._root)

    @property
    def done(self) -> bool:
        """Whether all samples are there."""
        return self.final.exists()

    def samples(self) -> list[Sample]:
        """The samples of a cell that is done, in the order of the task.

        Raises:
            SparseSightError: naming the file and the line that is damaged.
        """
        lines = read_text(self.final).split("\n")[:-1]
        if not lines:
            raise SparseSightError(f"{self.final} is damaged (no samples): delete this file, {_AGAIN}")
        return [
            Sample.from_line(line, f"{self.final}, line {number},") for number, line in enumerate(lines, 1)
        ]

    def prefill_ms(self) -> float | None:
        """Median milliseconds of a sample's prefill, where measured."""
        if not self._latency.exists():
            return None
        facts = read_json(self._latency, dict)
        check_fields(facts, {"prefill_ms": float, "samples": int}, str(self._latency))
        return float(facts["prefill_ms"])

    def answered(self, sizes: Sequence[int] | None = None) -> dict[int, list[Answer]] | None:
        """The batches that any process has answered, each once; a line that was not written to its end is none. None
        if the cell is done: the first process may finish it, and delete the batches, while another reads them.

        Args:
            sizes: questions of each batch, where known.

        Raises:
            SparseSightError: if a line is damaged in another way, or is no batch of this size.
        """
        found: dict[int, list[Answer]] = {}
        for part in self._parts():
            check_file(part, self._root)
            try:
                *lines, _torn = part.read_bytes().split(b"\n")
            except FileNotFoundError:  # tidied since it was listed
                continue
            except OSError as error:
                raise SparseSightError(f"{part} cannot be read ({error.strerror})") from None
            for number, line in enumerate(lines, 1):
                try:
                    batch, answers = _batch(line, f"{part}, line {number},")
                    if sizes is not None and (batch >= len(sizes) or len(answers) != sizes[batch]):
                        raise SparseSightError("no batch of this task")
                except SparseSightError:
                    raise SparseSightError(
                        f"{part} is damaged in line {number}: delete this file, {_AGAIN}"
                    ) from None
                found.setdefault(batch, answers)
        # Batches are deleted after the samples are there: without samples now, all of them were found.
        return None if self.done else found

    def append(self, batch: int, answers: Sequence[Answer]) -> None:
        """Add an answered batch; it is on the disk when this returns."""
        line = (
            json.dumps({"batch": batch, "answers": [asdict(x) for x in answers]}, ensure_ascii=False) + "\n"
        )
        part = self._stem.with_name(f"{self._stem.name}.rank{self.rank}.part")
        self._make_folder(part)
        with appending(part) as file:
            _drop_torn_line(file)
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())

    def finish(self, samples: Sequence[Sample], prefill_ms: Sequence[float] = ()) -> None:
        """Put the scored samples in place of the batches."""
        self._make_folder(self.final)
        if prefill_ms:
            facts = {"prefill_ms": median(prefill_ms), "samples": len(prefill_ms)}
            replace_file(self._latency, to_json(facts))
        replace_file(self.final, "".join(f"{sample.to_line()}\n" for sample in samples))
        self.tidy()

    def tidy(self) -> None:
        """Delete batches whose samples are there; a process that was killed may have left some."""
        if self.done:
            for part in self._parts():
                part.unlink(missing_ok=True)

    def _make_folder(self, file: Path) -> None:
        check_file(file, self._root)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SparseSightError(f"{file.parent} cannot be made ({error.strerror})") from None

    def _parts(self) -> list[Path]:
        start, end = f"{self._stem.name}.rank", ".part"
        folder = self._stem.parent
        there = folder.iterdir() if folder.is_dir() else ()
        found = {
            x.name[len(start) : -len(end)]: x
            for x in there
            if x.name.startswith(start) and x.name.endswith(end)
        }
        numbers = sorted(int(rank) for rank in found if re.fullmatch(r"0|[1-9]\d{0,8}", rank, re.ASCII))
        return [found[str(rank)] for rank in numbers]


def _drop_torn_line(file: Any) -> None:
    """Cut a file after its last line break, and stand at its end."""
    end = file.seek(0, os.SEEK_END)
    if not end:
        return
    file.seek(end - 1)
    if file.read(1) != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.seek(0, os.SEEK_END)


def _batch(line: bytes, where: str) -> tuple[int, list[Answer]]:
    """An answered batch and its number, from a line of a ``.part`` file."""
    data = parse_json(line.decode("utf-8", "replace"), dict, where)
    check_fields(data, {"batch": int, "answers": list}, where)
    return data["batch"], [Answer.from_dict(x, where) for x in data["answers"]]


def check_file(file: Path, root: Path) -> None:
    """Refuse links between the run folder and a file, and anything that is not a regular file."""
    check_inside(file, root)
    if file.exists() and not file.is_file():
        raise SparseSightError(f"{file} is not a regular file: delete it")


def to_json(data: Any) -> str:
    """As the files of a run folder are written."""
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"
