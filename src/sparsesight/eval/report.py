"""Reads the samples of a run folder and writes the report into it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import SparseSightError
from ..files import replace_file
from .cell_file import CellFile, to_json
from .csv_table import comma_separated
from .own.forced_table import forced_lines
from .plot import plot
from .records import Sample
from .run_dir import SUMMARY, RunFolder
from .summary import summarise
from .sweep import RunSpec
from .tables import markdown
from .task import Task


def write_report(
    folder: RunFolder,
    tasks: Sequence[Task],
    cells: Sequence[RunSpec],
    about: Mapping[str, Any],
    *,
    solved: bool = False,
    plots: bool = True,
) -> dict[str, Any]:
    """Write ``summary.json``, ``table.md``, ``table.csv`` and ``plot.png``; the summary is returned.

    Args:
        folder: in which the cells are done.
        tasks, cells: what is reported.
        about: lines for the head of the table.
        solved: whether budgets were solved for equal cost.
        plots: whether to draw; needs matplotlib.
    """
    runs = {
        task.name: (
            task.metric,
            {
                cell.label: _samples(task, folder.cell(task.name, cell.label))
                for cell in cells
                if folder.cell(task.name, cell.label).done
            },
        )
        for task in tasks
    }
    summary = summarise(runs, cells, solved=solved, nouns={task.name: task.unit for task in tasks})
    latencies = {
        (task.name, cell.label): ms
        for task in tasks
        for cell in cells
        if (ms := folder.cell(task.name, cell.label).prefill_ms()) is not None
    }
    replace_file(folder.path / SUMMARY, to_json(summary))
    more = forced_lines({name: cells for name, (_, cells) in runs.items()})
    replace_file(folder.path / "table.md", markdown(summary, about, latencies) + more)
    replace_file(folder.path / "table.csv", comma_separated(summary, latencies))
    if plots:
        plot(summary, latencies, folder.path / "plot.png")
    return summary


def _samples(task: Task, file: CellFile) -> list[Sample]:
    """The samples of a cell, if they are those of the task and have what its metric adds up.

    Raises:
        SparseSightError: naming the file.
    """
    samples = file.samples()
    try:
        if sorted(x.id for x in samples) != sorted(x.id for x in task.items):
            raise ValueError("other questions than the task's")
        task.metric.rows(samples)
        task.metric.marks(samples)
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        why = f"no {error} among its scores" if isinstance(error, LookupError) else str(error)
        raise SparseSightError(
            f"{file.final} is damaged ({why}): delete this file, what it held is answered again"
        ) from None
    return samples
