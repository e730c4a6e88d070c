"""The rows of a benchmark as tables, for a terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

Row = dict[str, Any]


class Column(NamedTuple):
    title: str
    cell: Callable[[Row], str]


class Table(NamedTuple):
    """A title that says what the numbers are, the heads of the columns, and the cells."""

    title: str
    heads: list[str]
    cells: list[list[str]]


def _number(key: str, digits: int = 1, unit: float = 1.0) -> Callable[[Row], str]:
    return lambda row: "-" if row[key] is None else f"{row[key] / unit:.{digits}f}"


def _share(wall: str, cpu: str) -> Callable[[Row], str]:
    return lambda row: f"{100 * row[wall]:.1f}% ({100 * row[cpu]:.1f}%)"


def _both(wall: str, cpu: str) -> Callable[[Row], str]:
    return lambda row: f"{row[wall]:.2f} ({row[cpu]:.2f})"


WHICH = (
    Column("method", lambda row: row["method"]),
    Column("retain", lambda row: str(row["retain"])),
    Column("visual", lambda row: str(row["visual"])),
    Column("batch", lambda row: str(row["batch"])),
)
PREFILL = (
    Column("prefill ms", _number("prefill_sparse_ms")),
    Column("dense", _number("prefill_dense_ms")),
    Column("speed-up", _both("prefill_speedup", "prefill_speedup_cpu")),
    Column("FLOPs limit", _number("flops_limit", 2)),
    Column("ratio", _both("prefill_ratio_to_limit", "prefill_ratio_to_limit_cpu")),
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
    Column("equal tokens", _number("equal_tokens")),
    Column("entering", _number("equal_tokens_entering")),
    Column("GFLOPs", _number("flops_sparse", 2, 1e9)),
    Column("dense", _number("flops_dense", 2, 1e9)),
    Column("KV MB", _number("kv_sparse_bytes", 2, 1e6)),
    Column("dense", _number("kv_dense_bytes", 2, 1e6)),
    Column("peak MB", _number("peak_sparse_bytes", 2, 1e6)),
    Column("dense", _number("peak_dense_bytes", 2, 1e6)),
)
EQUAL = 0.01  # costs that differ by no more are called equal
TABLES = {
    "Prefill of the decoder; ratio = speed-up / FLOPs limit; in brackets from processor time": PREFILL,
    "The whole call up to the first token, and a further token's; in brackets from processor time": TOKENS,
    "Visual tokens per layer; multiply-adds; KV cache after the prefill; peak of the prefill without weights": SIZES,
}


def tables(rows: Sequence[Row]) -> list[Table]:
    """The rows as tables; the numbers of visual tokens and of prompts stand there where they vary."""
    which = [
        column
        for column in WHICH
        if column.title in ("method", "retain") or len({row[column.title] for row in rows}) > 1
    ]
    made = []
    for title, columns in TABLES.items():
        chosen = [*which, *columns]
        made.append(Table(title, [c.title for c in chosen], [[c.cell(row) for c in chosen] for row in rows]))
    return made


def remarks(rows: Sequence[Row]) -> list[str]:
    """Where costs are not equal, what the overhead is made of, and where nothing can be gained."""
    said = []
    for row in rows:
        which = (
            f"{row['method']}, retain {row['retain']}, {row['visual']} visual tokens, batch {row['batch']}"
        )
        if abs(row["cost_deviation"]) > EQUAL:
            said.append(f"{which}: {100 * row['cost_deviation']:+.1f} % FLOPs beside what retain stands for")
        parts = ", ".join(f"{k} {100 * v:.2f} %" for k, v in row["overhead_parts"].items())
        said.append(f"{which}: of the prefill, {parts}")
        if row["flops_limit"] < 1.1:
            said.append(f"{which}: no gain here, the FLOPs limit itself is {row['flops_limit']:.2f}x")
    return said


def equality(rows: Sequence[Row]) -> str:
    """Whether what stands side by side costs the same, for a title."""
    most = max(abs(row["cost_deviation"]) for row in rows)
    if most <= EQUAL:
        return "Methods at the same retain cost the same prefill FLOPs"
    return f"Methods at the same retain do NOT cost the same: their prefill FLOPs are up to {100 * most:.1f} % off"


def markdown(config: Row, rows: Sequence[Row]) -> str:
    """A page with the settings, the machine, the tables and the remarks."""
    lines = ["# Benchmark", "", ", ".join(f"{k} {v}" for k, v in config.items())]
    lines += ["", f"{equality(rows)}."]
    for table in tables(rows):
        lines += ["", f"## {table.title}", ""]
        lines += [_line(table.heads), _line(["---"] * len(table.heads)), *map(_line, table.cells)]
    return "\n".join([*lines, "", *(f"- {text}" for text in remarks(rows)), ""])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
