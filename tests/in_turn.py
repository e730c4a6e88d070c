"""Parameters that meet in turn: each value of each axis is tested, and the whole product by ``make test-all``."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest


def in_turn(*axes: Sequence[Any]) -> list[Any]:
    """For ``parametrize("a, b", in_turn(every_a, every_b))``: the product of the axes.

    Not marked slow are as many combinations as the longest axis has values: its values in order, each with the next
    value of every other axis. This suits axes that are treated one apart from the other in the code under test.
    """
    cases, lengths = max(map(len, axes)), [len(axis) for axis in axes]
    # Of axes of one length the later ones turn more slowly, so that their values meet too.
    strides = [n ** lengths[:j].count(n) for j, n in enumerate(lengths)]
    strides = [s if s * n <= cases else 1 for s, n in zip(strides, lengths, strict=True)]
    chosen = {
        tuple(k // stride % n for stride, n in zip(strides, lengths, strict=True)) for k in range(cases)
    }
    return [
        pytest.param(
            *(axis[i] for axis, i in zip(axes, places, strict=True)),
            marks=() if places in chosen else pytest.mark.slow,
        )
        for places in product(*(range(len(axis)) for axis in axes))
    ]
