"""The result of a search: the verdict in one sentence, a table, and the numbers as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...bench.table import Table, markdown_lines
from ..own.task import LOST, SAME
from ..sweep import DENSE
from .bounds import lower_bound
from .plan import Plan
from .run import Found
from .search import Candidate


@dataclass(frozen=True)
class Promise:
    """What was asked for.

    Attributes:
        keep: the share of answers that is to stay.
        confidence: with which it is shown.
        by: what costs are: ``"flops"`` or ``"time"``.
    """

    keep: float
    confidence: float
    by: str = "flops"

    @property
    def unit(self) -> str:
        return "prefill arithmetic" if self.by == "flops" else "time to the first token"


def verdict(found: Found, plan: Plan, promise: Promise) -> str:
    """What was found, in one sentence."""
    chosen = found.chosen
    keep, sure = f"{percent(promise.keep)}", f"{percent(promise.confidence)} confidence"
    if all(x.skipped or x.cost >= found.dense_cost for x in found.candidates):
        measured = " in every turn that was measured" if promise.by == "time" else ""
        return (
            f"no setting takes less {promise.unit} than the dense model here{measured}: "
            "leave the model as it is, or try smaller budgets (--retain)"
        )
    if chosen is None:
        best = closest(found)
        return (
            f"no setting was shown to keep {keep} of the answers with {sure}; the closest is {best.name} with "
            f"{_kept(best):.1%} of {_asked(best)}: try larger budgets (--retain), a smaller --keep or "
            "more rows, and new ones, as these have been looked at"
        )
    rows = sum(len(plan.chunks[i].items) for i in plan.parts.held)
    pictures = "" if plan.single else f" about {plan.parts.held_units} pictures, which count alike,"
    return (
        f"{chosen.name}: {found.dense_cost / chosen.cost:.1f}x less {promise.unit}; {1 - chosen.held.mean():.1%} of "
        f"{rows} held-back answers{pictures} the same, at least {keep} with {sure}"
    )


def closest(found: Found) -> Candidate:
    """The setting that kept most of the answers it was asked; of several the cheapest."""
    return max((x for x in found.candidates if len(x.search)), key=lambda x: (_kept(x), -x.cost))


def rows_of(found: Found, promise: Promise) -> list[dict[str, Any]]:
    """One JSON-ready row per setting, the dearest first; those that cannot run last.

    ``kept`` is the share of answers that stayed among ``asked`` units of both parts. ``held_kept`` is that of the
    held-back part, and ``held_bound`` its lower bound as if this setting alone had been tested.
    """
    rows = []
    for x in sorted(
        found.candidates, key=lambda x: (bool(x.skipped), -x.cost if x.cost < np.inf else 0, x.name)
    ):
        answers = [a for chunk in found.answers[x.name].values() for a in chunk]
        whole = x.passed is not None and len(x.held) > 0
        rows.append(
            {
                "setting": x.name,
                "cost": round(x.cost, 4) if x.cost < np.inf else None,
                "cost_share": round(x.cost / found.dense_cost, 4) if x.cost < np.inf else None,
                "asked": _asked(x),
                "kept": round(_kept(x), 4) if _asked(x) else None,
                "bound": round(lower_bound(_all(x), promise.confidence), 4) if _asked(x) else None,
                "held": len(x.held),
                "held_kept": round(float(1 - x.held.mean()), 4) if whole else None,
                "held_bound": round(lower_bound(x.held, promise.confidence), 4) if whole else None,
                "lost_per_token": (
                    round(float(np.mean([a.figures[LOST] for a in answers])), 5) if answers else None
                ),
                "state": x.skipped or x.state,
                "chosen": x is found.chosen,
            }
        )
    return rows


def table(rows: Sequence[Mapping[str, Any]], found: Found, promise: Promise) -> Table:
    """The rows for a terminal or a page."""
    cells = []
    for row in rows:
        share = "" if row["cost_share"] is None else f"{row['cost_share']:.0%}"
        kept = "" if row["kept"] is None else f"{row['kept']:.1%} of {row['asked']}"
        held = "" if row["held_kept"] is None else f"{row['held_kept']:.1%} (≥ {row['held_bound']:.1%})"
        lost = "" if row["lost_per_token"] is None else f"{row['lost_per_token']:.4f}"
        cells.append(
            [row["setting"], share, kept, held, lost, "chosen" if row["chosen"] else str(row["state"])]
        )
    cost = "FLOPs" if promise.by == "flops" else "time"
    heads = ["setting", cost, "answers kept", "of held-back ones", "lost per token", ""]
    return Table(f"Answers that stay, and what a prefill costs beside the dense one ({cost})", heads, cells)


def markdown(
    said: str, made: Table, about: Mapping[str, str], plan: Plan, warnings: Sequence[str] = ()
) -> str:
    """The page ``table.md``; ``warnings`` say what weakens the result."""
    lines = [f"# {said}", "", *(f"- {name}: {value}" for name, value in about.items()), ""]
    lines += [line for text in warnings for line in (f"**Warning: {text}.**", "")]
    lines += [made.title + ".", "", *markdown_lines(made), ""]
    searched = sum(plan.parts.sizes[: plan.parts.search])
    lines += [
        f"The search part has {searched} units, the held-back part {plan.parts.held_units}; a unit is a row, or all",
        "rows about the same pictures or of one group. The promise is tested on the held-back part alone, in an order",
        "that was fixed before: it holds over the whole search. The bound in brackets is that of one test by itself.",
        "Lost per token: mean log-probability that the tokens of the dense answers lose, in nats.",
        "",
    ]
    return "\n".join(lines)


def changed(found: Found, name: str) -> list[tuple[int, int, str, str]]:
    """The rows whose answer a setting changed: chunk, place in it, dense answer, other answer."""
    return [
        (chunk, place, found.answers[DENSE][chunk][place].text, answer.text)
        for chunk, answers in sorted(found.answers[name].items())
        for place, answer in enumerate(answers)
        if not answer.figures[SAME]
    ]


def percent(share: float) -> str:
    """``98 %``, ``99.5 %``."""
    return f"{100 * share:.6g} %"


def _all(x: Candidate) -> Any:
    return np.concatenate((x.search, x.held))


def _asked(x: Candidate) -> int:
    return len(x.search) + len(x.held)


def _kept(x: Candidate) -> float:
    return float(1 - _all(x).mean())
