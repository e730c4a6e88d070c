"""Checks of the option fields of methods: plain values of a sensible size."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

from ..errors import SparseSightError, brief
from .retain import MAX_STAGES

MAX_WORD = 256  # characters of one field
MAX_NUMBER = 2**63 - 1  # of a field; larger ones do not even fit a tensor


def is_number(value: object) -> bool:
    """Whether a field holds a finite number; booleans do not count."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def check_plain(name: str, value: object) -> None:
    """Reject a field whose size or form no method can use, before a method sees it.

    Raises:
        SparseSightError: a number of more than 64 bits, a long text, a long list, nested lists.
    """
    if isinstance(value, list | tuple) and len(value) > MAX_STAGES:
        raise SparseSightError(f"{name}={brief(value)}: a list of {len(value):,} values is not valid")
    for x in value if isinstance(value, list | tuple) else (value,):
        if isinstance(x, list | tuple):
            raise SparseSightError(f"{name}={brief(value)}: nested lists are not valid")
        if isinstance(x, Integral) and not isinstance(x, bool) and abs(int(x)) > MAX_NUMBER:
            raise SparseSightError(f"{name}={brief(value)}: use numbers of at most 64 bits")
        if isinstance(x, str) and len(x) > MAX_WORD:
            raise SparseSightError(f"{name}={brief(value)}: a text of {len(x):,} characters is not valid")


def plain_value(value: Any) -> Any:
    """A field as a plain value: lists (JSON, the command line) become tuples, numpy's numbers Python's."""
    if isinstance(value, list | tuple):
        return tuple(plain_value(x) for x in value)
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)
