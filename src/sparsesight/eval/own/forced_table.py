"""What prefills make of the dense model's answers, as lines of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...bench.table import Table, markdown_lines
from ..records import Sample
from .task import KL, LOST, RANK, SAME


def forced_lines(runs: Mapping[str, Mapping[str, Sequence[Sample]]]) -> str:
    """A Markdown section of the tasks whose samples have such figures; "" if none has.

    Args:
        runs: samples by task and label.
    """
    rows = [
        [
            task,
            label,
            f"{_mean(samples, SAME):.1%}",
            f"{_mean(samples, LOST):.4f}",
            f"{sum(x.scores[RANK] == 1 for x in samples) / len(samples):.1%}",
            f"{_mean(samples, KL):.4f}",
        ]
        for task, cells in runs.items()
        for label, samples in cells.items()
        if all(LOST in x.scores for x in samples)
    ]
    if not rows:
        return ""
    heads = [
        "task",
        "method",
        "same answer as dense",
        "log-probability lost per token",
        "first token first",
        "KL of it",
    ]
    made = Table("The dense model's answers", heads, rows)
    return (
        f"\n## {made.title}\n\nWhat each prefill makes of the dense answer (teacher-forced, in nats): the "
        "mean log-probability that its tokens\nlost, how often its first token stays the most likely one, and the "
        "divergence of the first token.\n\n" + "\n".join(markdown_lines(made)) + "\n"
    )


def _mean(samples: Sequence[Sample], name: str) -> float:
    return sum(x.scores[name] for x in samples) / len(samples)
