"""Own data among the tasks of a run: read, and checked, before a model is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import SparseSightError
from ..records import Item
from .read import is_own, read_rows
from .rows import Row, decoded, make_item
from .scorers import Scorer, choose_scorer


@dataclass(frozen=True)
class OwnData:
    """Rows and how they are scored; without a scorer by agreement with the dense model."""

    name: str
    rows: list[Row]
    scorer: Scorer | None

    def items(self) -> list[Item]:
        """The rows as items of a task."""
        return [make_item(row) for row in self.rows]


def read_own(
    tasks: Sequence[str], question: str | None = None, score: str | None = None, limit: int | None = None
) -> dict[str, OwnData]:
    """Those of the tasks that are own data, by what the user wrote.

    Args:
        tasks: names, of which others are left out.
        question: for a folder of pictures.
        score: a name of :data:`~.scorers.SCORERS`; default: ``exact`` for rows with answers, else agreement.
        limit: rows of each.

    Raises:
        SparseSightError: bad rows, two tasks of one name, or an option that nothing here takes.
    """
    names = [task for task in tasks if is_own(task)]
    for option, value in (("--question", question), ("--score", score)):
        if value is not None and not names:
            raise SparseSightError(f"{option} {value!r} goes with own data: --tasks FILE.jsonl, or FOLDER/")
    found: dict[str, OwnData] = {}
    for task in names:
        rows = read_rows(task, question, limit)
        chosen = score or ("exact" if rows[0].answer is not None else None)
        scorer = None if chosen is None else choose_scorer(chosen, rows)
        name = Path(task).stem if Path(task).suffix else Path(task).name
        if name in [x.name for x in found.values()]:
            raise SparseSightError(f"--tasks: two of them are called {name!r}: rename one")
        found[task] = OwnData(name, rows, scorer)
    return found


def check_pictures(own: Mapping[str, OwnData], progress: Callable[[Row], None] = lambda row: None) -> None:
    """Decode every picture once.

    Args:
        own: of :func:`read_own`.
        progress: called with each row whose pictures were read.

    Raises:
        SparseSightError: pictures that are damaged behind their headers; naming the task and the rows.
    """
    for task, data in own.items():
        try:
            for _ in decoded(data.rows, progress):
                pass
        except SparseSightError as error:
            raise SparseSightError(f"{task}: {error}") from error
