"""How right an answer is: by its words, by a pattern, or by a metric of lmms-eval that judges answers one by one."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from ...errors import SparseSightError, brief, reason
from ...suggestions import did_you_mean
from .lmms_metrics import NAMED as LMMS
from .lmms_metrics import lmms_metric
from .rows import Row

Scorer = Callable[[str, Any], float]  # answer and target to 0 ... 1
OWN = ("exact", "contains", "regex")
SCORERS = (*OWN, *LMMS)  # and what else lmms-eval registers that judges one answer
MAX_PATTERN = 1000  # characters
MAX_REPEATS = 10_000  # of all its counts, multiplied
SECONDS = 1.0  # of one search: a pattern may come from anybody


def normalised(text: str) -> str:
    """Without differences that do not make another answer: case, spaces, and punctuation around words."""
    words = (_bare(word) for word in text.casefold().split())
    return " ".join(word for word in words if word) or text.strip()


def _bare(word: str) -> str:
    """Without outer punctuation, but for what makes another number of it: -5, .5."""
    found = re.search(r"-?\.?\d.*", word) if re.match(r"\W*\d", word) else None
    return (found.group() if found else word.lstrip(string.punctuation)).rstrip(string.punctuation)


def same(answer: str, target: str) -> float:
    """1 for the same :func:`normalised` text."""
    return float(normalised(answer) == normalised(target))


def contains(answer: str, target: str) -> float:
    """1 if the target's words are in the answer, one after the other."""
    return float(f" {normalised(target)} " in f" {normalised(answer)} ")


def matches(answer: str, target: str) -> float:
    """1 if the target, a pattern, is found in the answer; 0 also after :data:`SECONDS` of search."""
    import regex  # transformers requires it; the standard library's has no time limit

    try:
        return float(regex.search(target, answer, timeout=SECONDS) is not None)
    except TimeoutError:
        return 0.0


def choose_scorer(name: str, rows: Sequence[Row]) -> Scorer:
    """The scorer of a name of :data:`SCORERS`, or of another metric of lmms-eval, for rows with answers.

    Raises:
        SparseSightError: an unknown name, lmms-eval missing, rows without answers, a metric that does not judge single
            answers, or a pattern that is none.
    """
    if name not in SCORERS and find_spec("lmms_eval") is None:
        raise SparseSightError(
            f"--score {brief(name)} is unknown: choose {', '.join(SCORERS)}{did_you_mean(name, SCORERS)}"
        )
    if rows[0].answer is None:
        raise SparseSightError(f"--score {name!r} needs rows with answers: these have none, leave it out")
    if name == "regex":
        for row in rows:
            _check_pattern(row)
    own = {"exact": same, "contains": contains, "regex": matches}
    return own[name] if name in own else lmms_metric(name, OWN)


def _check_pattern(row: Row) -> None:
    import regex

    pattern = row.answer or ""
    if len(pattern) > MAX_PATTERN:
        raise SparseSightError(
            f"{row.where}: the pattern has {len(pattern):,} characters, more than the limit of {MAX_PATTERN:,}"
        )
    counts = [max(int(x or 1) for x in pair) for pair in re.findall(r"\{(\d*)(?:,(\d*))?\}", pattern)]
    if math.prod(max(x, 1) for x in counts) > MAX_REPEATS:  # nested ones are written out while it is compiled
        raise SparseSightError(
            f"{row.where}: the pattern {brief(pattern)} has counts that make more than {MAX_REPEATS:,} repeats: "
            "use * or +"
        )
    try:
        regex.compile(pattern)
    except (regex.error, RecursionError, OverflowError, MemoryError) as error:
        raise SparseSightError(
            f"{row.where}: {brief(pattern)} is no regular expression ({reason(error)})"
        ) from None
