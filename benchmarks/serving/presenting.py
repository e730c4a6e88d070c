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
    "Both engines run eagerly, on the V1 model runner, with chunked prefill and prefix caching off; the pages of chats "
    "have both on.",
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
    "Both engines run eagerly, on the V1 model runner, with prefix caching and chunked prefill off; the pages of chats "
    "have text with both on. With CUDA graphs of whole decoding steps every stage's tables are written in every step, "
    "also of text; that is not measured here.",
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


CHAT_NOTES = (
    "Times to the first token by processor time, summed over the turns of a chat. Ratios are pruned to vanilla in the "
    "same round, medians over rounds: below 1 pruning is faster. Tokens are those of all prompts of a chat.",
    "The vision tower of the random model is one layer of width 8: a real tower takes its time with and without "
    "pruning. Engines run eagerly, on the V1 model runner.",
)


def chats(
    settings: dict[str, Any],
    made_with: Sequence[Any],
    rows: Sequence[dict[str, Any]],
    limits: dict[int, float],
) -> str:
    """A page with what chats take, pruned and not; ``limits`` are ratios of a single question, by budget."""
    head = (
        *("chat", "retain", "rounds", "vanilla", "pruned", "ratio by processor time", "lowest to highest"),
        *(
            "first turn",
            "later turns",
            "by the wall clock",
            "prompt tokens",
            "cached, vanilla",
            "cached, pruned",
        ),
    )
    lines = [
        [
            row["chat"],
            str(row["retain"]),
            str(row["rounds"]),
            f"{row['vanilla_s']:.2f} s",
            f"{row['pruned_s']:.2f} s",
            f"{row['cpu']:.3f}",
            f"{row['lowest']:.3f} to {row['highest']:.3f}",
            *("" if row[part] is None else f"{row[part]:.3f}" for part in ("first_turn", "later_turns")),
            f"{row['wall']:.3f}",
            *(f"{row[count]:.0f}" for count in ("prompt", "vanilla_cached", "cached")),
        ]
        for row in rows
    ]
    return "\n".join(
        [
            "# vLLM: chats with prefix caching and chunked prefill",
            "",
            _facts(settings),
            "",
            *(f"- {_facts(facts)}" for facts in made_with),
            "",
            *(line for note in CHAT_NOTES for line in (note, "")),
            "By arithmetic alone the ratio of a single question is at least "
            + ", ".join(f"{limit:.3f} at {retain}" for retain, limit in limits.items())
            + ": layers before the first pruning layer hold every token, and whole blocks of keys are removed.",
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
