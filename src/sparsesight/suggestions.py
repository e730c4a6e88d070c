"""Suggestions for misspelled names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches


def did_you_mean(name: object, known: Iterable[str] | Mapping[str, str]) -> str:
    """``; did you mean 'fastv'?`` for the end of a message; empty if no name is close.

    Args:
        name: the unknown name.
        known: the known names, or a mapping of spellings to names. Case is ignored.
    """
    spellings = dict(known) if isinstance(known, Mapping) else {word: word for word in known}
    names = {spelling.lower(): word for spelling, word in spellings.items()}
    word = str(name).lower()
    if len(word) > 100:  # no slip of the pen, and slow to compare
        return ""
    near = get_close_matches(word, names, n=1) or [x for x in names if len(word) > 2 and x.startswith(word)]
    return f"; did you mean {names[near[0]]!r}?" if near else ""
