"""What someone probably meant who wrote a name that does not exist."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches


def did_you_mean(name: object, known: Iterable[str] | Mapping[str, str]) -> str:
    """``; did you mean 'fastv'?``, to be put at the end of a message; nothing where no name is near.

    Args:
        name: what was written.
        known: the names there are, or a mapping of spellings to names. Upper and lower case are taken for the same.
    """
    spellings = dict(known) if isinstance(known, Mapping) else {word: word for word in known}
    names = {spelling.lower(): word for spelling, word in spellings.items()}
    word = str(name).lower()
    if len(word) > 100:  # no slip of the pen, and slow to compare
        return ""
    near = get_close_matches(word, names, n=1) or [x for x in names if len(word) > 2 and x.startswith(word)]
    return f"; did you mean {names[near[0]]!r}?" if near else ""
