"""Which rows choose a setting and which are held back to confirm it; fixed before anything is asked."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import SparseSightError
from ..records import Item
from .bounds import least_units, most_shown
from .search import Parts

SEARCH_SHARE = 4  # one unit of so many is in the search part
MOST_SEARCH = 300  # units; more would choose no better
LEAST_SEARCH = 8


@dataclass(frozen=True)
class Chunk:
    """Items that are asked together, as whole units.

    Attributes:
        items: those of a unit one after the other.
        lengths: items of each unit.
    """

    items: tuple[Item, ...]
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """How the rows are asked.

    Attributes:
        chunks: of the search part, then of the held-back part.
        parts: the same in units.
    """

    chunks: tuple[Chunk, ...]
    parts: Parts

    @property
    def rows(self) -> int:
        return sum(len(chunk.items) for chunk in self.chunks)

    @property
    def single(self) -> bool:
        """Whether every unit is one row."""
        return all(set(chunk.lengths) == {1} for chunk in self.chunks)


def make_plan(items: Sequence[Item], batch_size: int, keep: float, confidence: float, seed: int = 0) -> Plan:
    """Split rows by their pictures: a quarter chooses, at most 300 units; the others are held back.

    Args:
        items: rows; those with one ``unit`` stay together.
        batch_size: rows that a chunk has at least, if it has several units.
        keep, confidence: what is to be shown.
        seed: of the split.

    Raises:
        SparseSightError: too few rows to show it even if no answer changed; with what so many can show.
    """
    units: dict[str, list[Item]] = {}
    for item in items:
        units.setdefault(item.unit or item.id, []).append(item)
    order = [units[name] for name in sorted(units)]
    random.Random(seed).shuffle(order)
    count = min(max(len(order) // SEARCH_SHARE, LEAST_SEARCH), MOST_SEARCH)
    held = len(order) - count
    least = least_units(keep, confidence)
    if held < least:
        enough = next(n for n in range(least, 3 * least + 99) if n - _searched(n) >= least)
        what = f"{len(items)} rows" + (
            f" about {len(order)} pictures or groups" if len(order) < len(items) else ""
        )
        can = most_shown(held, confidence) if held > 0 else 0.0
        shown = f"at most {int(1000 * can) / 10:g} % can be shown" if can >= 0.5 else "nothing can be shown"
        raise SparseSightError(
            f"with {what} {shown} ({max(held, 0)} held back, {100 * confidence:.6g}% confidence): give {enough}, all "
            f"about other pictures (or groups), for --keep {keep:g}, or ask for less"
        )
    search = _chunks(order[:count], batch_size)
    chunks = (*search, *_chunks(order[count:], batch_size))
    return Plan(chunks, Parts(tuple(len(chunk.lengths) for chunk in chunks), len(search)))


def _searched(units: int) -> int:
    return min(max(units // SEARCH_SHARE, LEAST_SEARCH), MOST_SEARCH)


def _chunks(units: Sequence[Sequence[Item]], size: int) -> list[Chunk]:
    found, held = [], list[Sequence[Item]]()
    for unit in units:
        held.append(unit)
        if sum(map(len, held)) >= size:
            found.append(_chunk(held))
            held = []
    return [*found, _chunk(held)] if held else found


def _chunk(units: Sequence[Sequence[Item]]) -> Chunk:
    return Chunk(tuple(item for unit in units for item in unit), tuple(map(len, units)))
