"""What is refused as a budget or as pruning layers, and what is accepted."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from sparsesight import BudgetError
from sparsesight.core.budget import (
    check_layers,
    plan,
)
from sparsesight.core.retain import check_retain

# -- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("retain", "says"),
    [
        (True, "use an int"),
        ("64", "use an int"),
        (None, "use an int"),
        ([64], "use an int"),
        (1j, "use an int"),
        (np.bool_(True), "use an int"),
        (0, "at least 1"),
        (-5, "at least 1"),
        (0.0, r"\(0, 1\]"),
        (-0.5, r"\(0, 1\]"),
        (math.nan, r"\(0, 1\]"),
        (math.inf, r"\(0, 1\]"),
        (-math.inf, r"\(0, 1\]"),
        (1.5, r"\(0, 1\]; write 2 for tokens"),
        (192.0, r"\(0, 1\]; write 192 for tokens"),
        ((), "one count >= 0"),
        ((64, -1), "one count >= 0"),
        ((64, 0.5), "one count >= 0"),
        ((64, True), "one count >= 0"),
        (("64",), "one count >= 0"),
        ((64, 65), "cannot grow"),
    ],
)
def test_check_retain(retain: Any, says: str) -> None:
    with pytest.raises(BudgetError, match=says) as error:
        check_retain(retain)
    assert str(error.value).startswith(f"retain={retain!r}: ")


@pytest.mark.parametrize("retain", [1, 10**6, 1.0, 1e-9, (5,), (5, 5, 0), np.int64(3), np.float32(0.5)])
def test_check_retain_accepts(retain: Any) -> None:
    check_retain(retain)


@pytest.mark.parametrize(
    "layers",
    [(), (2, 2), (6, 2), (-2, 2), (2, 31), (2, 99), (2.0, 6), (True, 2), ("2",), "26", 2, [2, 6], None],
)
def test_check_layers(layers: Any) -> None:
    with pytest.raises(BudgetError, match=r"from 0 to 30 \(of 32\)") as error:
        check_layers(layers, 32)
    assert str(error.value).startswith(f"layers={layers!r}: ")
    if layers not in ((2, 31), (2, 99)):  # without a depth there is no last layer
        with pytest.raises(BudgetError, match="from 0 on"):
            check_layers(layers)


def test_check_layers_accepts() -> None:
    check_layers((0,), 2)
    check_layers((0, 30), 32)
    check_layers((np.int64(3), 5), 32)  # type: ignore[arg-type]
    check_layers((2, 99))


def test_plan_checks_what_it_is_given() -> None:
    with pytest.raises(
        BudgetError, match=r"retain=\(300, 200\) has 2 counts for 3 pruning layers \(2, 6, 15\)"
    ):
        plan((300, 200), 576, 32, (2, 6, 15))
    with pytest.raises(BudgetError, match=r"retain=0: "):
        plan(0, 576, 32, (2, 6, 15))
    with pytest.raises(BudgetError, match=r"layers=\(2, 31\): "):
        plan(64, 576, 32, (2, 31))
    with pytest.raises(
        BudgetError, match=r"retain=0.01 of 576 visual tokens .* layers \(2, 6, 15\) of 32.*layers="
    ) as e:
        plan(0.01, 576, 32, (2, 6, 15))
    assert "possible are 36 to 576 (ratios 0.063 to 1.0)" in str(e.value)  # (2 * 576 + 30) / 32 - 1 = 35.94
