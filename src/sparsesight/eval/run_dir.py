"""The folder of a sweep.

    config.json                            settings, tasks and methods; compared when a sweep is resumed
    run.json                               every session: date, command, machine, versions
    samples/TASK/METHOD@BUDGET.jsonl       one line per sample, written when all are answered and scored
    samples/TASK/METHOD@BUDGET.rankN.part  until then: one line per answered batch, from each process
    samples/TASK/METHOD@BUDGET.latency.json  if measured; no other file contains timings
    summary.json, table.md, table.csv, plot.png

Appended lines are on disk before the next batch starts, and files are replaced atomically, so a process may be killed
at any moment.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from filelock import Timeout

from ..errors import SparseSightError
from ..file_lock import ProcessLock
from ..files import read_json, replace_file
from .cell_file import CellFile, check_file, to_json
from .records import check_fields

CONFIG = "config.json"
RUN = "run.json"
SUMMARY = "summary.json"
PATIENCE = 600  # seconds that other processes wait for the first one's folder


@dataclass(frozen=True)
class Config:
    """Everything that must stay the same when a sweep is resumed; JSON-ready.

    Attributes:
        settings: model, versions, batch size and whatever else decides on every answer.
        tasks: fingerprint of each task.
        cells: each method as a dict by its label; None is the dense model.
    """

    settings: Mapping[str, Any]
    tasks: Mapping[str, str]
    cells: Mapping[str, Mapping[str, Any] | None]

    def check_goes_on(self, earlier: Config, where: str) -> None:
        """Refuse to resume a run of another configuration. Tasks and methods may be added but not left out, as a
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
        resume: continue the run in it. Otherwise a folder that holds anything is refused.
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
        config = _as_read(config)
        try:
            path.mkdir(parents=True, exist_ok=True)
            if rank == 0:
                check_usable(path, resume)
            known = _read_config(path) if rank == 0 else _await_config(path)
            if known is not None:
                config.check_goes_on(known, str(path))
            for name in (CONFIG, RUN, SUMMARY, f"rank{rank}.lock"):
                check_file(path / name, path)
            self._lock = ProcessLock(path / f"rank{rank}.lock")
            self._lock.acquire(timeout=0)
            if rank == 0 and (known != config):
                replace_file(path / CONFIG, to_json(asdict(config)))
            if rank == 0:
                sessions = read_json(path / RUN, list) if (path / RUN).exists() else []
                replace_file(path / RUN, to_json([*sessions, dict(session or {})]))
        except Timeout:
            raise SparseSightError(
                f"--out {str(path)!r} is being filled by another process: wait for it, or name another folder"
            ) from None
        except SparseSightError:
            raise
        except (OSError, ValueError) as error:
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
        return CellFile(self.path / "samples" / _name(task) / _name(label), self.rank, self.path)


def check_usable(path: Path, resume: bool) -> None:
    """Refuse a folder before anything slow begins: one that holds a run, unless it is resumed, or anything else.

    Raises:
        SparseSightError: naming the folder.
    """
    try:
        names = [x.name for x in path.iterdir()] if path.exists() else []
    except OSError as error:
        raise SparseSightError(f"--out {str(path)!r} cannot be used ({error}): name another folder") from None
    if not names:
        return
    if _read_config(path) is None:
        if not all(name.endswith(".lock") for name in names):
            raise SparseSightError(f"--out {str(path)!r} is not empty and holds no run: name another folder")
    elif not resume:
        raise SparseSightError(
            f"--out {str(path)!r} holds a run: pass --resume to go on with it, or name another folder"
        )


def _read_config(path: Path) -> Config | None:
    file = path / CONFIG
    check_file(file, path)
    if not file.exists():
        return None
    try:
        data = read_json(file, dict)
        check_fields(data, {"settings": dict, "tasks": dict, "cells": dict}, str(file))
    except SparseSightError as error:
        raise SparseSightError(
            f"{file} is not the configuration of a run: name another folder ({error})"
        ) from None
    return Config(**data)


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


def _as_read(config: Config) -> Config:
    """As it comes back from the file."""
    return Config(**json.loads(json.dumps(asdict(config))))


def _name(label: str) -> str:
    """A label as a file name that every system takes."""
    name = quote(label, safe="+@,=()")
    return f"%2E{name[1:]}" if name.startswith(".") else name


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
