"""Tables on a terminal: within its width, with every column, and words whole."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from sparsesight.bench.table import Table
from sparsesight.commands.tables import print_table

MADE = Table(
    "What the numbers are",
    ["method", "budget", "prefill ms", *(f"measured limit {i}" for i in range(6))],
    [["sparsevlm+", budget, "204.2 (199-215)", *["12.27 (2.98)"] * 6] for budget in ("192", "64")],
    keys=2,
)


def printed(width: int, made: Table = MADE) -> list[str]:
    console = Console(width=width, file=io.StringIO(), highlight=False)
    print_table(console, made)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [40, 60, 80, 100, 160])
def test_a_table_is_no_wider_than_the_screen_and_loses_nothing(width: int) -> None:
    lines = printed(width)
    assert max(map(len, lines)) <= width
    words = " ".join(lines).split()
    parts = words.count("method")  # each part has the columns that tell rows apart
    assert words.count("sparsevlm+") == 2 * parts == 2 * words.count("budget")
    assert words.count("measured") == 6 and words.count("12.27") == 12 == words.count("(2.98)")
    assert words.count("204.2") == 2 and words.count("(199-215)") == 2
    assert (parts > 1) == (width <= 80)


def test_a_wide_screen_breaks_no_lines() -> None:
    assert sum("204.2 (199-215)" in line for line in printed(160)) == 2
    assert sum(MADE.title in line for line in printed(160)) == 1


def test_a_screen_narrower_than_a_word() -> None:
    assert "sparsevlm+" in " ".join(printed(8))
    long = Table("one", ["path"], [["x" * 100]])
    assert "".join(printed(40, long)).count("x") == 100
