"""The tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

HEAD = (
    "requests",
    "retain",
    "first token p50",
    "p99",
    "p50 ratio",
    "p99 ratio",
    "FLOPs limit",
    "requests/s",
    "tokens/s",
    "ratio",
    "FLOPs limit",
    "processor time",
)


def throughput(settings: dict[str, Any], made_with: Sequence[Any], rows: Sequence[dict[str, Any]]) -> str:
    """A page with the settings, the machine and the table."""
    lines = [
        [
            str(row["requests"]),
            "vanilla" if row["retain"] is None else str(row["retain"]),
            f"{row['first_p50_s']:.2f} s",
            f"{row['first_p99_s']:.2f} s",
            _both(row["first_p50_ratio"], row["first_p50_cpu_ratio"]),
            _both(row["first_p99_ratio"], row["first_p99_cpu_ratio"]),
            _times(row["first_limit"]),
            f"{row['requests_per_s']:.3f}",
            f"{row['tokens_per_s']:.2f}",
            _both(row["rate_ratio"], row["cpu_ratio"]),
            _times(row["rate_limit"]),
            f"{row['cpu_s']:.1f} s",
        ]
        for row in rows
    ]
    turns = ", ".join(
        f"{n} turns of {requests} requests"
        for requests, n in sorted({(row["requests"], row["turns"]) for row in rows})
    )
    return "\n".join(
        [
            "# vLLM throughput",
            "",
            _facts(settings),
            "",
            *(f"- {_facts(facts)}" for facts in made_with),
            "",
            f"Medians over turns ({turns}); ratios are to vanilla in the same turn, in brackets by processor time.",
            "",
            table(HEAD, lines),
        ]
    )


def idle(settings: dict[str, Any], made_with: Sequence[Any], rows: Sequence[dict[str, Any]]) -> str:
    """A page with what the plugin takes of steps without pictures."""
    head = ("clock", "steps", "ratio", "95 % interval", "more per step", "ratio of sums")
    lines = [
        [
            row["clock"],
            str(row["steps"]),
            f"{row['ratio']:.4f}",
            f"{row['low']:.4f} to {row['high']:.4f}",
            f"{row['extra_us']:.0f} us",
            f"{row['sum_ratio']:.4f}",
        ]
        for row in rows
    ]
    return "\n".join(
        [
            "# vLLM without pictures: the plugin on against vanilla",
            "",
            _facts(settings),
            "",
            *(f"- {_facts(facts)}" for facts in made_with),
            "",
            table(head, lines),
        ]
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rows]) + "\n"


def _times(ratio: float) -> str:
    return f"{ratio:.2f}x"


def _both(wall: float | None, cpu: float | None) -> str:
    return "" if wall is None or cpu is None else f"{_times(wall)} ({_times(cpu)})"


def _facts(facts: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items())
