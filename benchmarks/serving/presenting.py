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


THROUGHPUT_NOTES = (
    "The vision tower of the random model is one layer of width 8, so a first token is the decoder's and the front "
    "end's: a real tower takes its time with and without pruning, and ratios are smaller there.",
    "Both engines run eagerly, on the V1 model runner, with chunked prefill and prefix caching off. Pruning needs the "
    "last two; vanilla vLLM has them on, and what it gains by them is not measured here.",
    "The p99 of so few requests is nearly the slowest one: of 32 it lies between the last two, of 128 just below the "
    "second slowest.",
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
            *(line for note in THROUGHPUT_NOTES for line in (note, "")),
            table(HEAD, lines),
        ]
    )


IDLE_NOTES = (
    "A ratio is of two steps that follow each other, vanilla and the plugin, in changing order. The interval takes "
    "steps for independent, so the lowest and highest median ratio of a turn stand beside it. An arrival is "
    "`add_request`.",
    "Not in these numbers is what the flags cost that pruning needs. Both engines run eagerly, on the V1 model runner, "
    "with prefix caching and chunked prefill off; vanilla vLLM has both on. On a GPU the plugin also needs CUDA graphs "
    "that are PIECEWISE, where vanilla decodes in FULL ones: text pays that difference too, and it is not measured "
    "here.",
)


def idle(settings: dict[str, Any], made_with: Sequence[Any], rows: Sequence[dict[str, Any]]) -> str:
    """A page with what the plugin takes of requests without pictures."""
    head = (
        *("server", "timed", "clock", "number", "vanilla", "more", "ratio", "95 % interval"),
        *("turns", "ratio of sums"),
    )
    lines = [
        [
            row["state"],
            row["what"],
            row["clock"],
            str(row["steps"]),
            f"{row['vanilla_us']:.0f} us",
            f"{row['extra_us']:.1f} us",
            f"{row['ratio']:.4f}",
            f"{row['low']:.4f} to {row['high']:.4f}",
            f"{row['lowest']:.4f} to {row['highest']:.4f}",
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
            *(line for note in IDLE_NOTES for line in (note, "")),
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
