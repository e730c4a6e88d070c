"""Writes the folder of a search: setting, numbers, table, plot and page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...bench.table import Table
from ...files import read_json, replace_file
from ...settings import settings_json
from ..cell_file import check_file, to_json
from ..own.task import OwnRows
from ..records import check_fields
from ..run_dir import RunFolder
from .page import changed_page
from .plan import Plan
from .result import Promise, changed, closest, markdown, rows_of, table, verdict
from .run import Found
from .settings import Setting
from .times import measured_times

SETTINGS, NUMBERS, TIMES = "sparsesight.json", "tune.json", "times.json"


def write_result(
    folder: RunFolder,
    found: Found,
    plan: Plan,
    settings: Sequence[Setting],
    promise: Promise,
    fixed: Mapping[str, Any],
    note: Mapping[str, Any],
    warnings: Sequence[str] = (),
) -> tuple[dict[str, Any], Table]:
    """Write everything but the answers; the numbers, and the table for a terminal.

    Args:
        folder: of the search.
        found: its result.
        plan, settings, promise: what was searched.
        fixed: settings of the run, for ``about``.
        note: of the session: machine, date and command.
        warnings: what weakens the result, in sentences.
    """
    said, rows = verdict(found, plan, promise), rows_of(found, promise)
    made = table(rows, found, promise)
    about = {
        "model": fixed["model"],
        "weights": note["weights"],
        "rows": plan.rows,
        "held_back_units": plan.parts.held_units,
        "keep": promise.keep,
        "confidence": promise.confidence,
        "max_new_tokens": fixed["max_new_tokens"],
        "verdict": said,
        "versions": fixed["versions"],
    }
    methods = {x.name: x.method for x in settings}
    text = None if found.chosen is None else settings_json(methods[found.chosen.name], about)
    numbers = {
        "verdict": said,
        "settings": None if text is None else str(folder.path / SETTINGS),
        "rows": plan.rows,
        "search_units": sum(plan.parts.sizes[: plan.parts.search]),
        "held_units": plan.parts.held_units,
        **vars(promise),
        "warnings": list(warnings),
        "candidates": rows,
    }
    shown = (found.chosen or closest(found)).name
    heading = said if found.chosen is not None else f"{shown}; {said}"
    lines = {
        "model": str(fixed["model"]),
        "machine": f"{note['device']}, {fixed['dtype']}",
        "versions": ", ".join(f"{name} {number}" for name, number in fixed["versions"].items()),
        "weights": str(note["weights"]),
        "date": str(note["started"])[:10],
        "command": f"`{note['command']}`",
    }
    _write(folder, NUMBERS, to_json(numbers))
    _write(folder, "table.md", markdown(said, made, lines, plan, warnings))
    _write(folder, "changed.html", changed_page(heading, plan, changed(found, shown)))
    if find_spec("matplotlib") is not None:
        from .plot import plot

        plot(rows, {x.name: x.kind for x in settings}, promise, _place(folder, "plot.png"))
    if text is not None:
        _write(folder, SETTINGS, text)
    else:
        _place(folder, SETTINGS).unlink(missing_ok=True)
    return numbers, made


def known_times(
    folder: RunFolder, task: OwnRows, settings: Sequence[Setting]
) -> tuple[dict[str, float], str]:
    """What :func:`~.times.measured_times` finds; measured once for a folder."""
    file = _place(folder, TIMES)
    if not file.exists():
        times, note = measured_times(task, settings)
        replace_file(file, to_json({"note": note, "ms": times}))
    known = read_json(file, dict)
    check_fields(known, {"note": str, "ms": dict}, str(file))
    check_fields(known["ms"], dict.fromkeys(known["ms"], float), str(file))
    return known["ms"], known["note"]


def _place(folder: RunFolder, name: str) -> Path:
    check_file(folder.path / name, folder.path)
    return folder.path / name


def _write(folder: RunFolder, name: str, text: str) -> None:
    replace_file(_place(folder, name), text)
