"""A budget as people write it."""

from __future__ import annotations

import re

from ..errors import SparseSightError


def parse_retain(text: str, source: str = "--retain") -> int | float | tuple[int, ...]:
    """``64`` -> 64 tokens on average, ``0.33`` or ``33%`` -> a ratio, ``300,200,110`` -> counts per stage.

    Args:
        text: what was written.
        source: the option or variable it was written in, for messages.

    Raises:
        SparseSightError: if it is none of these; the message names the source and the text.
    """
    value = text.strip()
    if re.fullmatch(r"\d{1,10}", value, re.ASCII):
        if int(value) < 1:
            raise SparseSightError(f"{source} {text!r}: keep at least 1 token")
        return int(value)
    if re.fullmatch(r"(\d{1,10}\.?\d*|\.\d+)\s*%|\d{0,10}\.\d+|\d{1,10}\.", value, re.ASCII):
        ratio = float(value.rstrip("% ")) / (100 if value.endswith("%") else 1)
        if not 0 < ratio <= 1:
            raise SparseSightError(f"{source} {text!r}: a ratio lies above 0 and goes up to 1 (100%)")
        return ratio
    if re.fullmatch(r"\d{1,10}(\s*,\s*\d{1,10})*\s*,?", value, re.ASCII):
        return tuple(int(count) for count in value.rstrip(", ").split(","))
    raise SparseSightError(
        f"{source} {text!r} is no budget: write tokens (64), a ratio (0.33 or 33%) or counts per stage (300,200,110)"
    )
