"""The page's own HTML: answers, costs and the grid of a comparison. Whatever a model or a user wrote is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from ..report import run_lengths, si
from ..viz import Word
from .engine import StreamedAnswer

NOTHING = "—"
RATED = 5  # tokens; the speed of a shorter answer is the chance of one or two steps
# Class of a sign of the key -> what it stands for, in the order of the key.
MARKS = {
    "kept": "kept",
    "end": "kept row end",
    "merged": "merged into one that stays",
    "place": "where a merged token stands",
    "dropped": "dropped",
    "score": "score, low to high",
    "gone": "dropped before",
    "cut": "cut off by the processor",
    "padding": "padding",
}


def answer(title: str, subtitle: str, speech: StreamedAnswer | None, state: str) -> str:
    """One way to answer, with the answer so far.

    Args:
        title, subtitle: which way.
        speech: None before there is anything.
        state: what is going on, such as "writing", shown until the answer is complete; "" is nothing.
    """
    done = speech is not None and speech.done
    text = escape(speech.text) if speech is not None and speech.text else ""
    if done and not text:
        text = '<span class="ss-quiet">(an empty answer)</span>'
    caret = "" if done or not state else '<span class="ss-caret" aria-hidden="true"></span>'
    facts = [
        ("first token", _milliseconds(speech)),
        ("tokens/s", _rate(speech)),
        ("tokens", str(speech.tokens) if speech is not None and speech.tokens else NOTHING),
    ]
    listed = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
    return (
        f'<article class="ss-card"><header><h3>{escape(title)}</h3><p>{escape(subtitle)}</p></header>'
        f'<p class="ss-answer" aria-live="polite">{text}{caret}</p>'
        f'<p class="ss-state">{"" if done else escape(state)}</p><dl class="ss-facts">{listed}</dl></article>'
    )


def _milliseconds(speech: StreamedAnswer | None) -> str:
    if speech is None or speech.first_token is None:
        return NOTHING
    return f"{1e3 * speech.first_token:,.0f} ms"


def _speed(speech: StreamedAnswer | None) -> float | None:
    """Tokens per second of an answer that is long enough to tell."""
    return None if speech is None or speech.tokens < RATED else speech.per_second


def _rate(speech: StreamedAnswer | None) -> str:
    speed = _speed(speech)
    return NOTHING if speed is None else f"{speed:,.1f}"


def costs(dense: StreamedAnswer, sparse: StreamedAnswer) -> str:
    """What both complete answers cost, side by side."""
    found = sparse.pruned
    assert found is not None
    report, sample = found.report, found.report.samples[0]
    rows = [
        _row(
            "Time to first token",
            _milliseconds(dense),
            _milliseconds(sparse),
            dense.first_token,
            sparse.first_token,
        ),
        _row("Tokens per second", _rate(dense), _rate(sparse), _speed(dense), _speed(sparse)),
        _row(
            "Equal tokens",
            f"{sample.visual_tokens:,}",
            f"{sample.equal_tokens:,.1f}",
            sample.visual_tokens,
            sample.equal_tokens,
        ),
        _row(
            "Prefill multiply-adds",
            si(report.macs_dense),
            si(report.macs_sparse),
            report.macs_dense,
            report.macs_sparse,
        ),
        _row(
            "KV cache",
            f"{si(report.kv_bytes_dense)}B",
            f"{si(report.kv_bytes_sparse)}B",
            report.kv_bytes_dense,
            report.kv_bytes_sparse,
        ),
    ]
    note = f" ({escape(sample.note)})" if sample.note else ""
    return (
        '<div class="ss-costs"><table><thead><tr><th scope="col">Cost</th><th scope="col">dense</th>'
        f'<th scope="col">sparse</th><th scope="col">of dense</th></tr></thead><tbody>{"".join(rows)}</tbody></table>'
        f"<p>Visual tokens entering each layer: {run_lengths(sample.visual_per_layer)}{note}.</p>"
        "<details><summary>What these numbers mean</summary><p>"
        "<b>Time to first token</b> is the whole call, vision tower and vocabulary included, on this machine; "
        f"<b>tokens per second</b> stand there from {RATED} tokens on. "
        "<b>Equal tokens</b> are visual tokens per layer, on average. <b>Multiply-adds</b> are those of the language "
        "model's prefill, the method's own included: no program can make it faster by more than they say. On a small "
        "model the fixed cost of every layer weighs more than its arithmetic, so time shrinks less. "
        "<b>KV cache</b> is what the prompt keeps in memory while the answer is written.</p></details></div>"
    )


def _row(name: str, dense: str, sparse: str, before: float | None, after: float | None) -> str:
    share, bar = NOTHING, ""
    if before and after is not None:
        share = f"{after / before:.0%}" if after <= 2 * before else f"{after / before:.1f} x"
        width = min(100 * after / before, 100)
        bar = f'<span class="ss-bar" aria-hidden="true"><i style="width:{width:.1f}%"></i></span>'
    return f'<tr><th scope="row">{name}</th><td>{dense}</td><td>{sparse}</td><td>{bar}{share}</td></tr>'


def status(text: str, done: int = 0, total: int = 0) -> str:
    """A line about what is going on, with how much of it is done."""
    bar = f'<progress value="{done}" max="{total}"></progress>' if total else ""
    return f'<p class="ss-status" role="status">{bar}<span>{escape(text)}</span></p>' if text or bar else ""


def problem(sentence: str) -> str:
    """The same line, about what went wrong."""
    return f'<p class="ss-status ss-problem" role="alert">{escape(sentence)}</p>'


def key(marks: Iterable[str]) -> str:
    """What the signs on a picture stand for, of those that occur: names of :data:`MARKS`."""
    occur = set(marks)
    entries = "".join(
        f'<li><i class="ss-{name}" aria-hidden="true"></i>{said}</li>'
        for name, said in MARKS.items()
        if name in occur
    )
    return (
        f'<ul class="ss-key" aria-label="what the signs on the picture mean">{entries}</ul>'
        if entries
        else ""
    )


@dataclass(frozen=True)
class Cell:
    """One method at one budget.

    Attributes:
        budget: as it was asked for.
        speech: the complete answer; None while it is to come.
        same: whether it is the dense model's.
        overlay: of the last stage, as a data URI; "" if there is none.
        problem: why there is no answer.
        marks: that occur on the overlay.
    """

    budget: int
    speech: StreamedAnswer | None = None
    same: bool = False
    overlay: str = ""
    problem: str = ""
    marks: tuple[str, ...] = ()


def grid(question: str, dense: StreamedAnswer | None, rows: Sequence[tuple[str, Sequence[Cell]]]) -> str:
    """Methods one below the other, budgets side by side."""
    said = _milliseconds(dense)
    text = escape(dense.text) or "(an empty answer)" if dense is not None and dense.done else "…"
    parts = [
        f'<section class="ss-grid"><p class="ss-asked">{escape(question)} <b>{text}</b> '
        f'<span class="ss-quiet">dense, first token {said}</span></p>'
    ]
    for name, cells in rows:
        parts.append(f'<h3>{escape(name)}</h3><div class="ss-cells">{"".join(map(_cell, cells))}</div>')
    return "".join(
        [*parts, key(mark for _, cells in rows for cell in cells for mark in cell.marks), "</section>"]
    )


def _cell(cell: Cell) -> str:
    head = f"<header>cost of {cell.budget} tokens</header>"
    if cell.problem:
        return f'<article class="ss-cell">{head}<p class="ss-problem">{escape(cell.problem)}</p></article>'
    if cell.speech is None or cell.speech.pruned is None:
        return f'<article class="ss-cell ss-waiting">{head}<p class="ss-quiet">to come</p></article>'
    found = cell.speech.pruned
    report, sample = found.report, found.report.samples[0]
    picture = f'<img src="{cell.overlay}" alt="what the last stage kept">' if cell.overlay else ""
    verdict = (
        '<span class="ss-same">same as dense</span>'
        if cell.same
        else '<span class="ss-differs">differs</span>'
    )
    text = escape(cell.speech.text) or "(an empty answer)"
    facts = (
        f"first token {_milliseconds(cell.speech)}",
        f"{sample.equal_tokens:,.0f} equal tokens",
        f"{report.macs_sparse / report.macs_dense:.0%} of the multiply-adds",
        f"{report.kv_bytes_sparse / report.kv_bytes_dense:.0%} of the KV cache",
    )
    listed = "".join(f"<li>{fact}</li>" for fact in facts)
    return (
        f'<article class="ss-cell">{head}<div>{picture}</div><div><p class="ss-answer">{text}</p><p>{verdict}</p>'
        f"<ul>{listed}</ul></div></article>"
    )


def figure(question: str, text: str, overlay: str, why_not: str = "") -> str:
    """What a question kept, with the answer."""
    picture = f'<img src="{overlay}" alt="what the last stage kept">' if overlay else ""
    note = f'<p class="ss-quiet">{escape(why_not)}</p>' if why_not else ""
    said = escape(text) or "(an empty answer)"
    return f"<figure><figcaption>{escape(question)} <b>{said}</b></figcaption>{picture}{note}</figure>"


def pair(main: str, other: str, marks: Iterable[str] = ()) -> str:
    """What two questions kept, with a key of the marks on both."""
    parts = [
        f'<div class="{name}">{figure}</div>'
        for name, figure in (("ss-main", main), ("ss-other", other))
        if figure
    ]
    return f'<div class="ss-pair">{"".join(parts)}</div>{key(marks)}' if parts else ""


def words(prompt: Sequence[Word]) -> str:
    """The prompt's text behind the picture, with the words that judged marked."""
    last = max((i for i, word in enumerate(prompt) if word.visual), default=-1)
    parts = []
    for word in prompt[last + 1 :]:
        bare = word.text.strip()
        before, after = (
            word.text[: len(word.text) - len(word.text.lstrip())],
            word.text[len(word.text.rstrip()) :],
        )
        parts.append(
            f"{before}<mark>{escape(bare)}</mark>{after}" if word.rates and bare else escape(word.text)
        )
    if not any(word.rates for word in prompt):
        return ""
    title = '<span class="ss-quiet">Words that judged the patches:</span>'
    return f'<p class="ss-words">{title} {"".join(parts).strip()}</p>'
