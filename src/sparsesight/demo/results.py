"""What the page shows of answers, as values of Gradio's components: text, tables, Markdown and marked words."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from html import escape
from typing import Any, NamedTuple

from ..methods import GROUPS, METHODS
from ..report import Report, by_layers, listed, si
from ..viz import Word
from ..viz.legend import Sign, in_order
from ..viz.prompt_tokens import question_words
from .engine import StreamedAnswer

NOTHING = "—"
JUDGED = "judged"  # the label of words by which patches were scored
COMPARISON = (
    "method",
    "budget",
    "answer",
    "as dense",
    "own retain",
    "multiply-adds, of dense",
    "KV cache, of dense",
)
EXPLAINED = """
- **Visual tokens per layer** are an average over the layers.
- **Multiply-adds** are those of the language model's prefill, the method's own included. They bound the speed-up. In a
  small model the fixed cost of each layer outweighs its arithmetic, so time falls by less.
- **Time** is not shown, as one run tells nothing about it: `sparsesight bench` measures it.
- **KV cache** is what the prompt keeps in memory while the answer is generated.
"""
COMPARED_COSTS = """
- **Budget**: at one budget all methods cost the same prefill arithmetic, as much as SparseVLM+ with that many visual
  tokens per layer.
- **Own retain** is how many a method gets for it, the number to give it under Ask.
"""


def status(text: str, done: int = 0, total: int = 0, kind: str = "") -> str:
    """HTML of a line about what is going on, with a progress bar if ``total`` is given.

    Args:
        kind: "problem" for an error, "verdict" for the result, "found" for a smaller one.
    """
    bar = f'<progress value="{done}" max="{total}"></progress>' if total else ""
    role = "alert" if kind == "problem" else "status"
    return (
        f'<p class="ss-status {kind}" role="{role}">{bar}<span>{escape(text)}</span></p>'
        if text or bar
        else ""
    )


def key(signs: Collection[Sign]) -> str:
    """HTML that explains how the patches of a picture are painted."""
    entries = "".join(f'<li><i style="{sign.css()}"></i>{sign.name}</li>' for sign in in_order(signs))
    return f'<ul class="ss-key" aria-label="legend">{entries}</ul>' if entries else ""


def scale(scores: str) -> str:
    """HTML that explains the colours of scores, given what they are."""
    parts = (f"{escape(scores)}:", 'low <i class="ss-scale"></i> high', "kept patches are outlined")
    return f'<p class="ss-key">{" ".join(f"<span>{part}</span>" for part in parts)}</p>'


def said(speech: StreamedAnswer | None) -> str:
    """The text of an answer so far."""
    if speech is None:
        return ""
    return speech.text or ("(an empty answer)" if speech.done else "")


def costs(report: Report) -> str:
    """Markdown: what two complete answers cost."""
    sample = report.samples[0]
    rows = [
        (
            "Visual tokens per layer",
            f"{sample.visual_tokens:,}",
            f"{sample.equal_tokens:,.1f}",
            sample.visual_tokens,
            sample.equal_tokens,
        ),
        (
            "Prefill multiply-adds",
            si(report.macs_dense),
            si(report.macs_sparse),
            report.macs_dense,
            report.macs_sparse,
        ),
        (
            "KV cache",
            f"{si(report.kv_bytes_dense)}B",
            f"{si(report.kv_bytes_sparse)}B",
            report.kv_bytes_dense,
            report.kv_bytes_sparse,
        ),
    ]
    lines = ["| Cost | dense | sparse | of dense |", "| :-- | --: | --: | --: |"]
    lines += [f"| {name} | {a} | {b} | {share(x, y)} |" for name, a, b, x, y in rows]
    note = f" ({sample.note})" if sample.note else ""
    return "\n".join(
        [*lines, "", f"Visual tokens entering each layer: {by_layers(sample.visual_per_layer)}{note}."]
    )


def names_of(group: str) -> list[str]:
    """The names of a group's methods."""
    return [name for name, kind in METHODS.items() if kind.group() == group]


def short(group: str) -> str:
    """A group's name in the menu: its first word."""
    return group.split()[0]


KINDS = "; ".join(f"{group}: {said}" for group, said in GROUPS.items()).capitalize() + "."


def methods_to_choose() -> list[tuple[str, str]]:
    """Methods group by group, each as a label with its group, which fits the closed menu, and its name."""
    return [(f"{short(group)} · {name}", name) for group in GROUPS for name in names_of(group)]


def methods_chosen(names: Sequence[Any]) -> str:
    """The title of the folded list of methods."""
    return f"Methods ({len(names)} chosen)"


def menu_css() -> str:
    """Rules that write below each method of the open menu when to choose it.

    A label is also what the closed menu shows, where more than a few words would be cut off.
    """
    return "\n".join(
        f'#ss-method li[aria-label="{label}"]::after {{ content: {json.dumps(METHODS[name].when)}; }}'
        for label, name in methods_to_choose()
    )


def about(name: Any) -> str:
    """HTML: when to choose a method, and what kind it is."""
    kind = METHODS.get(name) if isinstance(name, str) else None
    if kind is None:  # a method of the command line's, with options
        return ""
    return f"<b>{escape(kind.name)}</b>: {escape(kind.when)}. {_kind(kind.group())}"


def about_all() -> str:
    """HTML: what :func:`about` says of every method, as lists."""
    parts = []
    for group in GROUPS:
        rows = "".join(f"<li><b>{name}</b>: {escape(METHODS[name].when)}</li>" for name in names_of(group))
        parts.append(f"<p>{_kind(group)}</p><ul>{rows}</ul>")
    return f'<div class="ss-about">{"".join(parts)}</div>'


def _kind(group: Any) -> str:
    return f"<i>{group.capitalize()}: {GROUPS[group]}.</i>"


def table(rows: Sequence[Sequence[Any]]) -> str:
    """HTML of rows of a comparison (:func:`compared`); on a phone each is a card with a head above every number."""
    heads = "".join(f"<th>{head}</th>" for head in COMPARISON)
    body = "".join(
        "<tr>"
        + "".join(
            f'<td data-head="{head.partition(",")[0]}">{"" if cell is None else escape(str(cell))}</td>'
            for head, cell in zip(COMPARISON, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>" if rows else ""


def compared(
    name: str, budget: int | None, speech: StreamedAnswer | None = None, dense: str = "", problem: str = ""
) -> list[Any]:
    """A row of the table of a comparison (:data:`COMPARISON`).

    Args:
        name, budget: the method and its budget; None for the dense model.
        speech: its complete answer; None if it is not there yet.
        dense: the dense model's answer.
        problem: why there is no answer.
    """
    row: list[Any] = [name, budget, problem or "…", "", None, "", ""]
    if speech is not None:
        row[2] = said(speech)
        if speech.pruned is not None:
            report = speech.pruned.report
            row[3] = "same" if speech.text == dense else "differs"
            row[4:] = (
                round(report.samples[0].equal_tokens, 1),
                share(report.macs_dense, report.macs_sparse),
                share(report.kv_bytes_dense, report.kv_bytes_sparse),
            )
    return row


class Tried(NamedTuple):
    """What a method's answer at a budget was: the dense one or not, for a share of the dense multiply-adds."""

    name: str
    budget: int
    same: bool
    share: float


def verdict(tried: Sequence[Tried], failed: int = 0) -> str:
    """A comparison in a sentence: who keeps the dense answer at the least cost, and how many do not.

    Args:
        failed: how many could not run.
    """
    kept, lost = [x for x in tried if x.same], [x for x in tried if not x.same]
    more = f"; {failed} could not run" if failed else ""
    if not tried:
        return f"Nothing to compare{more}."
    if not kept:
        return f"None of {len(tried)} keeps the dense answer{more}."
    budget = min(kept, key=lambda x: x.share).budget
    least = [x for x in kept if x.budget == budget]
    cost = f"at budget {budget}, for {max(x.share for x in least):.0%} of the multiply-adds"
    if not lost and len(kept) > 1:
        return f"All {len(kept)} keep the dense answer: {cost}{more}."
    names = listed([x.name for x in least])
    others = f"; {len(lost)} of {len(tried)} answer{'s' * (len(lost) == 1)} otherwise" if lost else ""
    return f"{names} keep{'s' * (len(least) == 1)} the dense answer {cost}{others}{more}."


def words(prompt: Sequence[Word]) -> list[tuple[str, str | None]]:
    """The question in the prompt, each part with its label if it was a rater; empty if there was none."""
    asked = question_words(prompt)
    if not any(word.rates for word in asked):
        return []
    parts: list[tuple[str, str | None]] = []
    for word in asked:
        inner = word.text.lstrip(" ")
        judged = word.rates and bool(inner.strip())
        if (
            judged and inner != word.text
        ):  # the blank is not marked; an ordinary one would get no width of its own
            parts.append(("\N{NO-BREAK SPACE}", None))
        parts.append((inner, JUDGED) if judged else (word.text, None))
    return parts


def share(before: float | None, after: float | None) -> str:
    """``25%``, or ``7.3 x`` where it is more than double."""
    if not before or after is None:
        return NOTHING
    return f"{after / before:.0%}" if after <= 2 * before else f"{after / before:.1f} x"
