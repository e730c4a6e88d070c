"""What a benchmark found, in a line per method and one table that fits 100 columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..equal_cost import REFERENCE
from .sweep import AXES, Row, budget, own_retain, varying
from .table import Column, Table, identifying

LARGE = 0.1  # of a prefill; a few percent in a model of 24 layers of width 1024


def headlines(rows: Sequence[Row]) -> list[str]:
    """``sparsevlm+: prefill 2.4x faster at retain 192 (limit 2.44x), 3.9x at 64 (4.46x)``, per method and size.

    The numbers are the method's own; where other budgets were asked for, these follow.
    """
    found: dict[tuple[str, ...], list[Row]] = {}
    axes = varying(rows)
    for row in rows:
        sizes = [f"batch {row[axis]}" if axis == "batch" else f"{row[axis]} {AXES[axis]}" for axis in axes]
        found.setdefault((row["method"], *sizes), []).append(row)
    return [
        f"{', '.join(names)}: {_speeds(alike)}{_asked(alike)}{_own(alike)}" for names, alike in found.items()
    ]


def _asked(rows: Sequence[Row]) -> str:
    """What the budgets stand for, if a method's own differ."""
    if all(own_retain(row) == budget(row["retain"]) for row in rows):
        return ""
    return f"; as costly as {REFERENCE.name} at {', '.join(budget(row['retain']) for row in rows)}"


def _own(rows: Sequence[Row]) -> str:
    """What keeps a model from the limit that is too small for its method."""
    share = max(row["overhead_share"] for row in rows)
    return f"; the method's own work is up to {share:.0%} of this small prefill" if share > LARGE else ""


def _speeds(rows: Sequence[Row]) -> str:
    said = []
    for number, row in enumerate(rows):
        faster, limit = row["prefill_speedup"], row["macs_limit"]
        times = f"{faster:.1f}x" if faster >= 1 else f"{faster:.2f}x"
        at = "" if row["retain"] is None else f" at {'' if number else 'retain '}{own_retain(row)}"
        first = "prefill " if not number else ""
        speed = " as fast" if faster < 1 else " faster" if not number else ""
        said.append(f"{first}{times}{speed}{at} ({'' if number else 'limit '}{limit:.2f}x)")
    return ", ".join(said)


def _median(key: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        least, most = row["spread"][key]["min"], row["spread"][key]["max"]
        return f"{row[key]:.1f} ({least:.0f}-{most:.0f})"

    return cell


SUMMARY = (
    Column("prefill ms", _median("prefill_sparse_ms")),
    Column("dense ms", _median("prefill_dense_ms")),
    Column("faster", lambda row: f"{row['prefill_speedup']:.2f}x"),
    Column("limit", lambda row: f"{row['macs_limit']:.2f}x"),
    Column("first token", lambda row: f"{row['first_token_speedup']:.2f}x"),
    Column("KV cache", lambda row: f"{row['kv_sparse_bytes'] / row['kv_dense_bytes']:.0%}"),
)
TITLE = "Medians (least-most); faster: dense over sparse time; limit: dense over sparse FLOPs of the prefill"


def summary(rows: Sequence[Row]) -> Table:
    """Prefill, first token and KV cache of every row."""
    columns = [*identifying(rows), *SUMMARY]
    return Table(TITLE, [x.title for x in columns], [[x.cell(row) for x in columns] for row in rows])
