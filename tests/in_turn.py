"""Parameters that meet in turn: each value of each axis is tested, and the whole product by ``make test-all``."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest

# A case takes seconds, not tenths: it has one turn where that is asked for, the others go to another value of the axis.
SLOW_VALUES = ("flex_attention",)


def is_slow(value: Any) -> bool:
    """Of values with others, the first counts."""
    first = value[0] if isinstance(value, tuple) and value else value
    return isinstance(first, str) and first in SLOW_VALUES


def in_turn(*axes: Sequence[Any], slow_once: bool = False) -> list[Any]:
    """For ``parametrize("a, b", in_turn(every_a, every_b))``: the product of the axes.

    Not marked slow are as many combinations as the longest axis has values: its values in order, each with the next
    value of every other axis. This suits axes that are treated one apart from the other in the code under test.
    """
    cases, lengths = max(map(len, axes)), [len(axis) for axis in axes]
    # Of axes of one length the later ones turn more slowly, so that their values meet too.
    strides = [n ** lengths[:j].count(n) for j, n in enumerate(lengths)]
    strides = [s if s * n <= cases else 1 for s, n in zip(strides, lengths, strict=True)]
    turns = [[k // stride % n for stride, n in zip(strides, lengths, strict=True)] for k in range(cases)]
    for j, axis in enumerate(axes):
        slow = [turn for turn in turns if is_slow(axis[turn[j]])]
        for i, turn in enumerate(slow):
            if i or not slow_once:
                turn[j] = (turn[j] + 1 + i % (lengths[j] - 1)) % lengths[j]
    chosen = set(map(tuple, turns))
    return [
        pytest.param(
            *(axis[i] for axis, i in zip(axes, places, strict=True)),
            marks=() if places in chosen else pytest.mark.slow,
        )
        for places in product(*(range(len(axis)) for axis in axes))
    ]
