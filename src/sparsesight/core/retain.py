"""Parses and checks budgets."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from numbers import Integral, Real

from ..errors import BudgetError, SparseSightError, brief

MAX_TOKENS = 2**31 - 1  # upper limit of a budget; more than any prompt has
MAX_STAGES = 1024


def parse_retain(text: str, source: str = "--retain") -> int | float | tuple[int, ...]:
    """``64`` -> 64 tokens on average, ``0.33`` or ``33%`` -> a ratio, ``320,80`` -> counts per stage.

    Args:
        text: the budget as text.
        source: the option or variable that it comes from, for messages.

    Raises:
        SparseSightError: it is none of these; the message names the source and the text.
    """
    value = text.strip()
    if re.fullmatch(r"\d{1,10}", value, re.ASCII):
        if int(value) < 1:
            raise SparseSightError(f"{source} {text!r}: keep at least 1 token")
        return int(value)
    if re.fullmatch(r"(\d{1,10}\.?\d*|\.\d+)\s*%|\d{0,10}\.\d+|\d{1,10}\.", value, re.ASCII):
        ratio = float(value.rstrip("% ")) / (100 if value.endswith("%") else 1)
        if not 0 < ratio <= 1:
            raise SparseSightError(f"{source} {text!r}: a ratio is above 0 and at most 1 (100%)")
        return ratio
    if re.fullmatch(r"\d{1,10}(\s*,\s*\d{1,10})*\s*,?", value, re.ASCII):
        return tuple(int(count) for count in value.rstrip(", ").split(","))
    raise SparseSightError(
        f"{source} {text!r} is not a budget: write tokens (64), a ratio (0.33 or 33%) or counts per stage (320,80)"
    )


def check_retain(retain: int | float | tuple[int, ...]) -> None:
    """Reject a ``retain`` that is not an average (int >= 1), a ratio (0 < float <= 1) or counts per stage.

    Raises:
        BudgetError: with the value and the valid forms.
    """
    if isinstance(retain, bool) or not isinstance(retain, Real | tuple):
        raise BudgetError(
            f"retain={brief(retain)}: use an int (average tokens, 64), a float in (0, 1] (a ratio, 0.33) or a "
            "tuple of counts"
        )
    if isinstance(retain, tuple):
        if not retain or any(isinstance(k, bool) or not isinstance(k, Integral) or k < 0 for k in retain):
            raise BudgetError(f"retain={brief(retain)}: give one count >= 0 for each pruning layer")
        if len(retain) > MAX_STAGES or max(retain) > MAX_TOKENS:
            raise BudgetError(
                f"retain={brief(retain)}: give at most {MAX_STAGES:,} counts, none above {MAX_TOKENS:,}"
            )
        if any(a < b for a, b in pairwise(retain)):
            raise BudgetError(f"retain={brief(retain)}: counts cannot grow from one stage to the next")
    elif isinstance(retain, Integral):
        if retain < 1:
            raise BudgetError(f"retain={brief(retain)}: at least 1 token")
        if retain > MAX_TOKENS:
            raise BudgetError(f"retain={brief(retain)}: at most {MAX_TOKENS:,} tokens")
    elif not 0 < float(retain) <= 1:
        raise BudgetError(
            f"retain={brief(retain)}: a ratio lies in (0, 1]; write {round(float(retain))} for tokens"
            if 1 < float(retain) < math.inf
            else f"retain={brief(retain)}: a ratio lies in (0, 1]"
        )
