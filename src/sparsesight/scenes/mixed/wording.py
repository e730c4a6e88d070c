"""Phrases for places, boxes and sentences, shared by all kinds of pictures."""

from __future__ import annotations

from collections.abc import Sequence

from ..drawing import SIDE
from ..questions import Question
from .picture import Box

COLUMNS = {2: ("left", "right"), 3: ("left", "", "right")}
ROWS = {2: ("top", "bottom"), 3: ("top", "", "bottom")}


def place_of(cell: tuple[int, int], layout: tuple[int, int]) -> str | None:
    """Where a cell of a layout of columns and rows is, in words; None where words would not be exact."""
    (column, row), (columns, rows) = cell, layout
    across = COLUMNS.get(columns, ("left", *[None] * (columns - 2), "right"))[column]
    down = ROWS.get(rows, ("top", *[None] * (rows - 2), "bottom"))[row]
    if across is None or down is None:
        return None
    if not across and not down:
        return "in the middle"
    if not down:
        return f"in the middle on the {across}"
    return f"at the {down} {across}" if across else f"at the {down} in the middle"


def in_a_row(rows: int) -> list[tuple[int, str]]:
    """Rows that have a name: their index and the name."""
    named = {0: "top row", rows - 1: "bottom row"}
    if rows == 3:
        named[1] = "middle row"
    return sorted(named.items())


def shows(subject: str, names: Sequence[str], verb: str = "shows") -> str:
    """A sentence that lists names."""
    *most, last = names
    listed = f"{', '.join(most)} and {last}" if most else last
    return f"The {subject} {verb} {listed}."


def box_in_words(box: Box) -> str:
    """Left, top, right and bottom in per cent of the picture's side."""
    return " ".join(str((100 * edge + SIDE // 2) // SIDE) for edge in box)


def point_at(what: str, answer: str, index: int) -> Question:
    """The question for the box of an element."""
    text = f"Point to {what}: give left, top, right and bottom of its box in percent."
    return Question("point", text, answer, (index,))
