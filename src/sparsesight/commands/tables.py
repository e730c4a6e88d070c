"""Prints tables on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as Printed

from ..bench.table import Table
from ..terminal import rich_text

EDGES = 2  # of the box
WHOLE = 24  # characters: longer words may break


def print_table(console: Console, made: Table) -> None:
    """Print a table as wide as the screen at most; columns that do not fit stand below, beside those that tell rows
    apart.

    No column is lost: on a screen too narrow for one column beside these, lines are longer than the screen.
    """
    title = made.title
    for part in _parts(made, console.width):
        table = _laid_out(part._replace(title=title), console.width)
        console.print(table, crop=False)
        title = ""


def _parts(made: Table, width: int) -> list[Table]:
    """The table, or several that fit beside each other's first columns."""
    keys, rest = list(range(made.keys)), list(range(made.keys, len(made.heads)))
    parts: list[list[int]] = [[]]
    for column in rest:
        if parts[-1] and _least(_columns(made, [*keys, *parts[-1], column])) > width:
            parts.append([])
        parts[-1].append(column)
    return [_columns(made, [*keys, *part]) for part in parts]


def _columns(made: Table, which: Sequence[int]) -> Table:
    heads, *cells = ([line[i] for i in which] for line in (made.heads, *made.cells))
    return made._replace(heads=heads, cells=cells)


def _least(made: Table) -> int:
    """The width at which words are whole, with one blank between columns."""
    return sum(least for least, _ in _spans(made)) + len(made.heads) - 1 + EDGES


def _spans(made: Table) -> list[tuple[int, int]]:
    """The least width of each column, at which its words are whole, and that of its longest line."""
    found = []
    for texts in zip(made.heads, *made.cells, strict=True):
        words = [len(word) for text in texts for word in text.split()]
        found.append((min(max(words, default=1), WHOLE), max(1, *map(len, texts))))
    return found


def _laid_out(made: Table, width: int) -> Printed:
    """The table within a width, where that can be: the widest columns break their lines first."""
    spans, least = _spans(made), _least(made)
    gap = 2 if least + len(spans) - 1 <= width else 1
    widths, room = [most for _, most in spans], width - EDGES - gap * (len(spans) - 1)
    while sum(widths) > room:
        broken = [i for i, (least, _) in enumerate(spans) if widths[i] > least]
        if not broken:
            break
        widths[max(broken, key=lambda i: widths[i])] -= 1
    table = Printed(
        title=rich_text(made.title) if made.title else None,
        box=SIMPLE_HEAD,
        padding=(0, gap - 1, 0, 0),
        pad_edge=False,
        width=least if least > width else None,
    )
    for head, wide in zip(made.heads, widths, strict=True):
        table.add_column(rich_text(head), width=wide, overflow="fold")
    for cells in made.cells:
        table.add_row(*map(rich_text, cells))
    return table
