"""The rows of a benchmark as tables, for a terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..equal_cost import EQUAL, REFERENCE, STANDS_FOR
from ..profiling.sections import PARTS
from .roofline import no_gain
from .sweep import AXES, Row, asked, budget, label, own, own_retain, varying


class Column(NamedTuple):
    title: str
    cell: Callable[[Row], str]


class Table(NamedTuple):
    """A title that says what the numbers are, the heads of the columns, and the cells; the first ``keys`` columns tell
    rows apart."""

    title: str
    heads: list[str]
    cells: list[list[str]]
    keys: int = 1


def _number(key: str, digits: int = 1, unit: float = 1.0) -> Callable[[Row], str]:
    return lambda row: "-" if row[key] is None else f"{row[key] / unit:.{digits}f}"


def _share(wall: str, cpu: str) -> Callable[[Row], str]:
    return lambda row: f"{100 * row[wall]:.1f}% ({100 * row[cpu]:.1f}%)"


def _both(wall: str, cpu: str) -> Callable[[Row], str]:
    return lambda row: "-" if row[wall] is None else f"{row[wall]:.2f} ({row[cpu]:.2f})"


WHICH = (
    Column("method", lambda row: row["method"]),
    Column("retain", lambda row: budget(row["retain"])),
    *(Column(axis, _number(axis, 0)) for axis in AXES),
)
PREFILL = (
    Column("prefill ms", _number("prefill_sparse_ms")),
    Column("dense", _number("prefill_dense_ms")),
    Column("speed-up", _both("prefill_speedup", "prefill_speedup_cpu")),
    Column("FLOPs limit", _number("macs_limit", 2)),
    Column("ratio", _both("prefill_ratio_to_limit", "prefill_ratio_to_limit_cpu")),
    Column("products limit", _both("products_limit", "products_limit_cpu")),
    Column("measured limit", _both("measured_limit", "measured_limit_cpu")),
    Column("overhead", _share("overhead_share", "overhead_share_cpu")),
)
TOKENS = (
    Column("first token ms", _number("first_token_sparse_ms")),
    Column("dense", _number("first_token_dense_ms")),
    Column("speed-up", _both("first_token_speedup", "first_token_speedup_cpu")),
    Column("per token ms", _number("token_sparse_ms", 2)),
    Column("dense", _number("token_dense_ms", 2)),
)
SIZES = (
    Column("tokens per layer", _number("equal_tokens")),
    Column("entering a layer", _number("equal_tokens_entering")),
    Column("GMACs", _number("macs_sparse", 2, 1e9)),
    Column("dense", _number("macs_dense", 2, 1e9)),
    Column("KV MB", _number("kv_sparse_bytes", 2, 1e6)),
    Column("dense", _number("kv_dense_bytes", 2, 1e6)),
)
ROOFLINE = (
    Column("at least ms", lambda row: f"{row['roofline_sparse']['bound_ms']:.2f}"),
    Column("dense", lambda row: f"{row['roofline_dense']['bound_ms']:.2f}"),
    Column("of the measured", _share("roofline_share_sparse", "roofline_share_sparse_cpu")),
    Column("dense", _share("roofline_share_dense", "roofline_share_dense_cpu")),
    Column("device limit", _number("roofline_speedup", 2)),
)
BOUND = (
    Column("MACs ms", lambda row: f"{row['roofline_sparse']['macs_ms']:.2f}"),
    Column("bytes ms", lambda row: f"{row['roofline_sparse']['bytes_ms']:.2f}"),
    Column("launches ms", lambda row: f"{row['roofline_sparse']['launch_ms']:.2f}"),
    Column("kernels", _number("kernels_sparse", 0)),
    Column("dense", _number("kernels_dense", 0)),
    Column("per token at least ms", _number("token_bound_sparse_ms", 2)),
    Column("dense", _number("token_bound_dense_ms", 2)),
)
MEMORY = (
    Column("peak MB", _number("peak_sparse_bytes", 2, 1e6)),
    Column("dense", _number("peak_dense_bytes", 2, 1e6)),
    Column("at least MB", _number("least_peak_sparse_bytes", 2, 1e6)),
    Column("dense", _number("least_peak_dense_bytes", 2, 1e6)),
    Column("KV held MB", _number("kv_held_sparse_bytes", 2, 1e6)),
    Column("dense", _number("kv_held_dense_bytes", 2, 1e6)),
    Column("at least MB", _number("kv_sparse_bytes", 2, 1e6)),
    Column("weights MB", _number("weights_bytes", 2, 1e6)),
)


def _microseconds(part: str) -> Callable[[Row], str]:
    return lambda row: f"{row['overhead_us'][part]:.0f} ({row['overhead_us_cpu'][part]:.0f})"


def _of_fast(key: str, digits: int) -> Callable[[Row], str]:
    return lambda row: f"{row['fast'][key]:.{digits}f}" if row.get("fast") else "-"


FAST = (
    Column("prefill ms", _number("prefill_sparse_ms")),
    Column("dense on the path", _of_fast("prefill_dense_ms", 1)),
    Column("dense", _number("prefill_dense_ms")),
    Column("speed-up over dense on the path", _of_fast("prefill_speedup", 2)),
    Column("over dense", _number("prefill_speedup", 2)),
    Column("dense on the path over dense", _of_fast("prefill_dense_speedup", 2)),
    Column("segments", _of_fast("segments", 0)),
    Column("programs", _of_fast("programs", 0)),
)
OVERHEAD = tuple(Column(part, _microseconds(part)) for part in PARTS)
TABLES = {
    "Prefill of the decoder; ratio = speed-up / FLOPs limit; in brackets from processor time": PREFILL,
    "The fast path: sparse and dense on it, beside the dense model as it is": FAST,
    "The whole call up to the first token, and a further token's; in brackets from processor time": TOKENS,
    "Least time on this device by its measured ceilings, and how much of the measured prefill that is": ROOFLINE,
    "What makes up that least time, and the least of a further token": BOUND,
    "Microseconds of the mechanism's parts; layout is before the decoder; in brackets processor time": OVERHEAD,
    "Visual tokens per layer; multiply-adds; KV cache after the prefill": SIZES,
    "Peak of the prefill without weights, and what the cache holds, beside what there has to be": MEMORY,
}


def identifying(rows: Sequence[Row]) -> list[Column]:
    """The columns that tell rows apart: method, the budget that was asked for, and each size that varies."""
    axes = varying(rows)
    method, retain, *sizes = WHICH
    return [
        method,
        Column(asked(rows), retain.cell),
        *(column for column in sizes if column.title in axes),
    ]


def tables(rows: Sequence[Row]) -> list[Table]:
    """The rows as tables, with a column for each size that varies."""
    made = []
    for title, columns in TABLES.items():
        if columns is FAST and not any(row.get("fast") for row in rows):
            continue
        beside = [Column("own retain", own_retain)] if columns is SIZES and not own(rows) else []
        made.append(filled(title, rows, [*beside, *columns]))
    return made


def filled(title: str, rows: Sequence[Row], columns: Sequence[Column]) -> Table:
    """The rows in the columns that tell them apart and in others."""
    which = identifying(rows)
    chosen = [*which, *columns]
    cells = [[column.cell(row) for column in chosen] for row in rows]
    return Table(title, [column.title for column in chosen], cells, len(which))


def remarks(rows: Sequence[Row]) -> list[str]:
    """Where costs are not equal, and where nothing can be gained and why."""
    said = []
    for row in rows:
        which = f"{label(row['method'], row['retain'], asked(rows))}, {_sizes(row)}"
        if abs(row["cost_deviation"]) > EQUAL:
            off = 100 * row["cost_deviation"]
            than = f"{'more' if off > 0 else 'fewer'} FLOPs than {REFERENCE.name} at that retain"
            said.append(f"{which}: {abs(off):.1f} % {than}")
        fast = row.get("fast")
        if fast and fast["why_not"]:
            ordinary = fast["segments"] - fast["programs"]
            reasons = "; ".join(fast["why_not"])
            said.append(
                f"{which}: {ordinary} of {fast['segments']} segments ran the ordinary way, because {reasons}"
            )
        why = no_gain(row)
        if why is not None:
            said.append(f"{which}: no gain here, because {why}")
    return said


def ceilings(rows: Sequence[Row]) -> list[str]:
    """What the device reaches at best, at each size."""
    said = []
    for row in rows:
        x = row["ceilings"]
        said.append(
            f"measured ceilings of this device: {x['macs'] / 1e9:.1f} G multiply-adds/s, {x['bytes'] / 1e9:.1f} "
            f"GB/s, {1e6 * x['launch']:.2f} us a launch ({_sizes(row)})"
        )
    return list(dict.fromkeys(said))


def _sizes(row: Row) -> str:
    return f"{row['visual']} visual tokens, batch {row['batch']}, {row['depth']} layers"


def equality(rows: Sequence[Row]) -> str:
    """Whether methods at one budget, or at one retain of their own, cost the same, for a title."""
    most = max(abs(row["cost_deviation"]) for row in rows)
    if most <= EQUAL:
        return f"Methods at one {asked(rows)} cost the same prefill FLOPs"
    return f"Methods at one {asked(rows)} do NOT cost the same: their prefill FLOPs are up to {100 * most:.1f} % off"


def markdown(config: Row, rows: Sequence[Row], more: Sequence[Table] = ()) -> str:
    """A page with the settings, the machine, the tables (``more`` after those of the rows) and the remarks."""
    stands = "" if own(rows) else f": {STANDS_FOR}, own retain what the method gets for it"
    costs = f"{equality(rows)}{stands}."
    head = ["# Benchmark", "", ", ".join(f"{k} {v}" for k, v in config.items()), "", costs]
    made = map(markdown_table, (*tables(rows), *more))
    return "\n".join([*head, *made, "", *(f"- {text}" for text in (*remarks(rows), *ceilings(rows))), ""])


def markdown_table(table: Table) -> str:
    """A table below a heading with its title."""
    return "\n".join(["", f"## {table.title}", "", *markdown_lines(table)])


def markdown_lines(table: Table) -> list[str]:
    """The heads and cells of a table; a bar or a line break in a cell does not end it."""
    lines = (table.heads, ["---"] * len(table.heads), *table.cells)
    whole = ([cell.replace("|", "\\|").replace("\n", " ") for cell in cells] for cells in lines)
    return [f"| {' | '.join(cells)} |" for cells in whole]
