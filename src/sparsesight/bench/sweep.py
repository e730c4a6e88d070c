"""The sizes that a benchmark can vary, and its rows sorted along one of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

Row = dict[str, Any]
AXES = {"visual": "visual tokens", "batch": "prompts per forward", "depth": "decoder layers"}


def varying(rows: Sequence[Row]) -> list[str]:
    """The axes along which the rows differ."""
    return [axis for axis in AXES if len({row[axis] for row in rows}) > 1]


def budget(retain: Any) -> str:
    """A budget as a cell of a table; empty if there is none."""
    return "" if retain is None else str(retain)


def own_retain(row: Row) -> str:
    """The average tokens per layer that a method has at the budget of a row; the budget where that is unknown."""
    given = row.get("settings", {}).get("retain")
    if row["retain"] is None or given == row["retain"] or not isinstance(given, int | float):
        return budget(row["retain"])
    return f"{given:.3g}" if isinstance(given, float) else str(given)


def own(rows: Sequence[Row]) -> bool:
    """Whether every method's own average is the budget that was asked for."""
    return all(own_retain(row) == budget(row["retain"]) for row in rows)


def asked(rows: Sequence[Row]) -> str:
    """What the numbers of ``--retain`` are: each method's own ``retain``, or a ``budget`` for which it gets another."""
    return "retain" if own(rows) else "budget"


def label(method: str, retain: Any, asked: str = "retain") -> str:
    """A method with its budget, if it has one."""
    return method if retain is None else f"{method}, {asked} {retain}"


class Line(NamedTuple):
    """Rows of one method and budget that differ in one axis.

    Attributes:
        method, retain: of all rows.
        fixed: the values of the other axes.
        sizes: along the axis, two or more, ascending.
        rows: one of each size.
    """

    method: str
    retain: Any
    fixed: dict[str, int]
    sizes: list[int]
    rows: list[Row]

    @property
    def which(self) -> list[str]:
        """First cells of a table's row (see :func:`heads`)."""
        return [self.method, budget(self.retain), *map(str, self.fixed.values())]


def heads(axis: str, asked: str = "retain") -> list[str]:
    """What :attr:`Line.which` are."""
    return ["method", asked, *(other for other in AXES if other != axis)]


def lines(rows: Sequence[Row], axis: str) -> list[Line]:
    """Every line along ``axis``, in the order of the rows; none where it does not vary."""
    found: dict[tuple[Any, ...], dict[int, Row]] = {}
    for row in rows:
        key = (row["method"], row["retain"], *(row[other] for other in AXES if other != axis))
        found.setdefault(key, {})[row[axis]] = row
    return [
        Line(key[0], key[1], dict(zip(heads(axis)[2:], key[2:], strict=True)), *_ascending(alike))
        for key, alike in found.items()
        if len(alike) > 1
    ]


def _ascending(alike: dict[int, Row]) -> tuple[list[int], list[Row]]:
    sizes = sorted(alike)
    return sizes, [alike[size] for size in sizes]
