"""What a benchmark found, in a line per method and one table that fits 100 columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..equal_cost import STANDS_FOR
from ..report import listed
from .sweep import AXES, Row, asked, budget, own, varying
from .table import Column, Table, filled

LARGE = 0.1  # of a prefill; a few percent in a model of 24 layers of width 1024


def headlines(rows: Sequence[Row]) -> list[str]:
    """``sparsevlm+: prefill 2.4x faster (2.3 to 2.5) at retain 192 (limit 2.44x), 3.9x (3.7 to 4.0) at 64 (4.46x)``,
    per method and size.

    The first brackets hold the quartiles of the ratios within turns, in each of which dense and sparse ran. The
    budgets are those that were asked for: ``at budget 192`` where a method's own average is another.
    """
    found: dict[tuple[str, ...], list[Row]] = {}
    axes, what = varying(rows), asked(rows)
    for row in rows:
        sizes = [f"batch {row[axis]}" if axis == "batch" else f"{row[axis]} {AXES[axis]}" for axis in axes]
        found.setdefault((row["method"], *sizes), []).append(row)
    return [f"{', '.join(names)}: {_speeds(alike, what)}{_untold(alike)}" for names, alike in found.items()]


def own_work(rows: Sequence[Row]) -> list[str]:
    """What keeps those that the turns tell from dense from the limit: ``of this small prefill, methods' own work is up
    to 73% (halves)``."""
    largest: dict[str, float] = {}
    for row in rows:
        if not _alike(row) and row["overhead_share"] > LARGE:
            largest[row["method"]] = max(row["overhead_share"], largest.get(row["method"], 0.0))
    if not largest:
        return []
    first = sorted(largest.items(), key=lambda x: -x[1])
    each = listed([f"{share:.0%} ({name})" for name, share in first])
    return [f"of this small prefill, methods' own work is up to {each}"]


def _untold(rows: Sequence[Row]) -> str:
    """Which of some ratios do not tell anything."""
    alike = [row for row in rows if _alike(row)]
    if not alike:
        return ""
    at = "" if len(alike) == len(rows) else f" at {listed([budget(row['retain']) for row in alike])}"
    return f"; not told apart from dense{at}"


def _alike(row: Row) -> bool:
    """Whether the turns do not tell sparse from dense: neither praise nor blame."""
    turns = row["spread"]["prefill_speedup"]
    return bool(turns["q1"] < turns["q3"] and turns["q1"] <= 1 <= turns["q3"])


def _ratio(value: float) -> str:
    """A digit, or two where one would not tell the value from 1."""
    return f"{value:.1f}" if value >= 1.15 else f"{value:.2f}"


def _turns(row: Row) -> str:
    """Quartiles of a row's turns; nothing of a single one."""
    turns = row["spread"]["prefill_speedup"]
    return f" ({_ratio(turns['q1'])} to {_ratio(turns['q3'])})" if turns["q1"] < turns["q3"] else ""


def _speeds(rows: Sequence[Row], what: str) -> str:
    said, before = [], ""
    for number, row in enumerate(rows):
        faster, limit = row["prefill_speedup"], row["macs_limit"]
        at = "" if row["retain"] is None else f" at {'' if number else f'{what} '}{budget(row['retain'])}"
        word = " as fast" if faster < 1 or _alike(row) else " faster"
        turns = _turns(row)
        brackets = f"({'' if number else 'limit '}{limit:.2f}x)"
        between = f"{turns}{at} {brackets}" if at or not turns else f"{turns[:-1]}; {brackets[1:]}"
        said.append(f"{_ratio(faster)}x{word if word != before else ''}{between}")
        before = word
    return f"prefill {', '.join(said)}"


def _median(key: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        turns = row["spread"][key]
        return f"{row[key]:.1f} ({turns['q1']:.0f}-{turns['q3']:.0f})"

    return cell


SUMMARY = (
    Column("prefill ms", _median("prefill_sparse_ms")),
    Column("dense ms", _median("prefill_dense_ms")),
    Column("faster", lambda row: f"{row['prefill_speedup']:.2f}x"),
    Column("limit", lambda row: f"{row['macs_limit']:.2f}x"),
    Column("first token", lambda row: f"{row['first_token_speedup']:.2f}x"),
    Column("KV cache", lambda row: f"{row['kv_sparse_bytes'] / row['kv_dense_bytes']:.0%}"),
)
TITLE = "Medians (quartiles); faster: dense over sparse time; limit: dense over sparse FLOPs of the prefill"


def summary(rows: Sequence[Row]) -> Table:
    """Prefill, first token and KV cache of every row, by the budget that was asked for."""
    return filled(TITLE if own(rows) else f"{TITLE}; {STANDS_FOR}", rows, SUMMARY)
