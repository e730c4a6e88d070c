"""A sweep on disk: what was asked, what was answered so far, and what came out.

    config.json                            what is compared when a sweep goes on: settings, tasks, methods
    run.json                               every session: date, command, machine, versions
    samples/TASK/METHOD@BUDGET.jsonl       a line per sample; it appears when all are answered and scored
    samples/TASK/METHOD@BUDGET.rankN.part  until then: a line per answered batch, by each process
    samples/TASK/METHOD@BUDGET.latency.json  where measured; no other file holds anything that varies by the clock
    summary.json, table.md, table.csv, plot.png

Whatever is appended is on the disk before the next batch begins; whatever is replaced is replaced in one step. A
process may be killed at any moment.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import quote

from filelock import FileLock, Timeout

from ..errors import SparseSightError
from .records import Answer, Sample

CONFIG = "config.json"
RUN = "run.json"
SUMMARY = "summary.json"
PATIENCE = 600  # seconds that other processes wait for the first one's folder


@dataclass(frozen=True)
class Config:
    """What must not change while a sweep goes on; JSON-ready.

    Attributes:
        settings: model, versions, batch size and whatever else decides on every answer.
        tasks: fingerprint of each task.
        cells: each method as a dict by its label; None is the dense model.
    """

    settings: Mapping[str, Any]
    tasks: Mapping[str, str]
    cells: Mapping[str, Mapping[str, Any] | None]

    def check_goes_on(self, earlier: Config, where: str) -> None:
        """Refuse to go on with a run of something else. Tasks and methods may be added, but none may be left out: a
        report is always about the whole folder.

        Raises:
            SparseSightError: naming what differs.
        """
        for title, there, now in (
            ("setting", earlier.settings, self.settings),
            ("task", earlier.tasks, self.tasks),
            ("method", earlier.cells, self.cells),
        ):
            gone = [key for key in there if key not in now]
            if gone and title != "setting":
                raise SparseSightError(
                    f"--out {where!r} also holds {title} {gone[0]!r}: name all that it holds (what is done is not done "
                    "again), or another folder"
                )
            for key in {**there, **now} if title == "setting" else there:
                if there.get(key) != now.get(key):
                    raise SparseSightError(
                        f"--out {where!r} holds a run of another configuration ({title} {key}: there "
                        f"{_brief(there.get(key))}, now {_brief(now.get(key))}): name another folder"
                    )


class RunFolder:
    """An opened run folder; :meth:`close` it, or use it as a context manager.

    Args:
        path: the folder; made if it does not exist.
        config: of this call.
        resume: go on with what is there. Otherwise a folder that holds anything is refused.
        rank: of this process, where several fill one folder. Rank 0 makes it, and the others wait for it.
        session: what is noted in ``run.json`` about this call.

    Raises:
        SparseSightError: a folder that cannot be used, holds another configuration, or is in use.
    """

    def __init__(
        self,
        path: Path,
        config: Config,
        *,
        resume: bool = False,
        rank: int = 0,
        session: Mapping[str, Any] | None = None,
    ) -> None:
        self.path, self.rank = path, rank
        config = _plain(config)
        try:
            path.mkdir(parents=True, exist_ok=True)
            if rank == 0:
                check_usable(path, resume)
            known = _read_config(path) if rank == 0 else _await_config(path)
            if known is not None:
                config.check_goes_on(known, str(path))
            self._lock = FileLock(path / f"rank{rank}.lock")
            self._lock.acquire(timeout=0)
            if rank == 0 and (known != config):
                replace_file(path / CONFIG, to_json(asdict(config)))
            if rank == 0:
                sessions = json.loads((path / RUN).read_text("utf-8")) if (path / RUN).exists() else []
                replace_file(path / RUN, to_json([*sessions, dict(session or {})]))
        except Timeout:
            raise SparseSightError(
                f"--out {str(path)!r} is being filled by another process: wait for it, or name another folder"
            ) from None
        except OSError as error:
            raise SparseSightError(
                f"--out {str(path)!r} cannot be used ({error}): name another folder"
            ) from error

    def close(self) -> None:
        """Let others use the folder."""
        self._lock.release()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def cell(self, task: str, label: str) -> CellFile:
        """The samples of one task under one method."""
        return CellFile(self.path / "samples" / _name(task) / _name(label), self.rank)


class CellFile:
    """The samples of a task under a method, first as answered batches, then as scored samples.

    Args:
        stem: path without suffix.
        rank: of the process that answers.
    """

    def __init__(self, stem: Path, rank: int) -> None:
        self.rank = rank
        self.final = stem.with_name(stem.name + ".jsonl")
        self._latency = stem.with_name(stem.name + ".latency.json")
        self._stem = stem

    @property
    def done(self) -> bool:
        """Whether all samples are there."""
        return self.final.exists()

    def samples(self) -> list[Sample]:
        """The samples of a cell that is done, in the order of the task."""
        lines = self.final.read_text("utf-8").split("\n")[:-1]
        return [Sample.from_line(line) for line in lines]

    def prefill_ms(self) -> float | None:
        """Median milliseconds of a sample's prefill, where measured."""
        if not self._latency.exists():
            return None
        return float(json.loads(self._latency.read_text("utf-8"))["prefill_ms"])

    def answered(self) -> dict[int, list[Answer]] | None:
        """The batches that any process has answered, each once; a line that was not written to its end is none. None
        if the cell is done: the first process may finish it, and delete the batches, while another reads them.

        Raises:
            SparseSightError: if a line is damaged in another way.
        """
        found: dict[int, list[Answer]] = {}
        for part in self._parts():
            try:
                *lines, _torn = part.read_bytes().split(b"\n")
            except FileNotFoundError:  # tidied since it was listed
                continue
            for number, line in enumerate(lines, 1):
                try:
                    data = json.loads(line)
                    answers = [Answer(**x) for x in data["answers"]]
                    found.setdefault(int(data["batch"]), answers)
                except (ValueError, KeyError, TypeError):
                    raise SparseSightError(
                        f"{part} is damaged in line {number}: delete this file, its batches are answered again"
                    ) from None
        # Batches are deleted after the samples are there: without samples now, all of them were found.
        return None if self.done else found

    def append(self, batch: int, answers: Sequence[Answer]) -> None:
        """Add an answered batch; it is on the disk when this returns."""
        line = (
            json.dumps({"batch": batch, "answers": [asdict(x) for x in answers]}, ensure_ascii=False) + "\n"
        )
        part = self._stem.with_name(f"{self._stem.name}.rank{self.rank}.part")
        part.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "a+b") as file:
            _drop_torn_line(file)
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())

    def finish(self, samples: Sequence[Sample], prefill_ms: Sequence[float] = ()) -> None:
        """Put the scored samples in place of the batches."""
        self.final.parent.mkdir(parents=True, exist_ok=True)
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

    def _parts(self) -> list[Path]:
        start, end = f"{self._stem.name}.rank", ".part"
        folder = self._stem.parent
        there = folder.iterdir() if folder.is_dir() else ()
        return sorted(
            (x for x in there if x.name.startswith(start) and x.name.endswith(end)),
            key=lambda x: int(x.name[len(start) : -len(end)]),
        )


def check_usable(path: Path, resume: bool) -> None:
    """Refuse a folder before anything slow begins: one that holds a run, unless it is gone on with, or anything else.

    Raises:
        SparseSightError: naming the folder.
    """
    if not path.is_dir():
        return
    if _read_config(path) is None:
        if any(x for x in path.iterdir() if not x.name.endswith(".lock")):
            raise SparseSightError(f"--out {str(path)!r} is not empty and holds no run: name another folder")
    elif not resume:
        raise SparseSightError(
            f"--out {str(path)!r} holds a run: pass --resume to go on with it, or name another folder"
        )


def replace_file(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all."""
    fresh = path.with_name(path.name + ".new")
    with open(fresh, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)


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


def _read_config(path: Path) -> Config | None:
    file = path / CONFIG
    if not file.exists():
        return None
    try:
        return Config(**json.loads(file.read_text("utf-8")))
    except (ValueError, TypeError):
        raise SparseSightError(f"{file} is not the configuration of a run: name another folder") from None


def _await_config(path: Path) -> Config:
    """What rank 0 has written. It may still be loading its model."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        known = _read_config(path)
        if known is not None:
            return known
        time.sleep(0.1)
    raise SparseSightError(
        f"--out {str(path)!r}: the first process has made no run folder there; see what it says"
    )


def _plain(config: Config) -> Config:
    """As it comes back from the file."""
    return Config(**json.loads(json.dumps(asdict(config))))


def to_json(data: Any) -> str:
    """As the files of a run folder are written."""
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def _name(label: str) -> str:
    """A label as a file name that every system takes."""
    name = quote(label, safe="+@,=()")
    return f"%2E{name[1:]}" if name.startswith(".") else name


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
