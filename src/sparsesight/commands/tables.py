"""Prints tables on a terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as Printed

from ..bench.table import Table
from ..terminal import rich_text


def print_table(console: Console, made: Table) -> None:
    """Print a table; no column is lost on a narrow screen."""
    table = Printed(title=rich_text(made.title), box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for head, *cells in zip(made.heads, *made.cells, strict=True):
        # Words stay whole, "0.97 (0.98)" may break.
        words = [word for text in (head, *cells) for word in text.split()]
        table.add_column(rich_text(head), min_width=min(max(map(len, words)), 24), overflow="fold")
    for cells in made.cells:
        table.add_row(*map(rich_text, cells))
    narrowest = Measurement.get(console, console.options.update_width(1000), table).minimum
    console.print(table, width=max(console.width, narrowest), crop=False)
