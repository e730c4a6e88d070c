"""``sparsesight doctor``: what is installed and whether it works."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from typing import TYPE_CHECKING

import typer

from ..terminal import rich_text
from .options import AsJson

if TYPE_CHECKING:
    from .environment import Diagnosis


def doctor(
    as_json: AsJson = False,
) -> None:
    """Report versions, devices, attention implementations and extras, and run the bundled model.

    The exit code is 1 if SparseSight cannot work here; a missing extra does not count.
    """
    from .environment import diagnose

    with redirect_stdout(sys.stderr):  # imported packages may print
        found = diagnose()
    if as_json:
        typer.echo(json.dumps(found.to_dict()))
    else:
        _show(found)
    if found.problems:
        raise typer.Exit(1)


def _show(found: Diagnosis) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    good, bad, absent = ("yes", "green"), ("no", "red"), ("-", "dim")
    table = Table.grid(padding=(0, 2))

    def part(title: str, rows: list[tuple[tuple[str, str], str, str]]) -> None:
        if table.row_count:
            table.add_row()
        table.add_row("", rich_text(title, "bold"))
        for (sign, style), name, said in rows:
            table.add_row(rich_text(sign, style), rich_text(name), rich_text(said))

    part(
        f"Python {found.python} on {found.system}",
        [
            (
                bad if p.problem else good if p.version else absent,
                p.name,
                "  ".join(
                    filter(None, (p.version or ("" if p.problem else "not installed"), p.problem, p.note))
                ),
            )
            for p in found.packages
        ],
    )
    part("devices", [(good, *_halves(device)) for device in found.devices])
    part("attention", [(absent if a.problem else good, a.name, a.problem) for a in found.attention])
    part(
        "extras",
        [
            (
                absent if extra.missing else good,
                extra.name,
                f"{extra.gives}; pip install 'sparsesight[{extra.name}]'" if extra.missing else extra.gives,
            )
            for extra in found.extras
        ],
    )
    if found.defaults:
        rows = [
            (bad if name in found.wrong_defaults else good, name, found.wrong_defaults.get(name, value))
            for name, value in found.defaults.items()
        ]
        part("defaults from variables", rows)
    trial = found.bundled
    said = trial.problem or (
        f"{trial.question} {trial.dense}; sparse, 128 of 576 visual tokens: {trial.sparse}"
    )
    part("bundled model", [(bad if trial.problem else good, "answers", said)])
    console.print(table)
    console.print()
    console.print(
        rich_text(f"does not work: {'; '.join(found.problems)}", "red")
        if found.problems
        else rich_text("no problems found", "green")
    )


def _halves(text: str) -> tuple[str, str]:
    name, _, rest = text.partition(": ")
    return name, rest
