"""PyramidDrop: geometric counts, stages that move forward where a budget asks for it."""

from __future__ import annotations

import math
from typing import Any

import pytest

from sparsesight import SparseSightError
from sparsesight.errors import BudgetError
from sparsesight.methods import FastV, PyramidDrop

from .kept_tokens import check_any_batch, kept
from .stages import Sample


def test_as_published() -> None:
    """Four stages of eight layers: 576, 288, 144 and 72 tokens, 270 on average of what enters."""
    method = PyramidDrop.published()
    schedule = method.plan(576, 32, method.stage_layers(32))
    assert schedule.entering == (576,) * 8 + (288,) * 8 + (144,) * 8 + (72,) * 8
    assert schedule.equal_tokens_entering == 270
    assert schedule.equal_tokens == 254.25  # the number its docstring states, rounded
    assert [s.keep for s in method.plan(2881, 32, (7, 15, 23)).stages] == [1440, 720, 360]  # rounded down
    assert method.positions == "compact" and PyramidDrop().positions == "original"


def test_the_published_average_gives_the_published_counts() -> None:
    schedule = PyramidDrop(254.25 / 576).plan(576, 32, (7, 15, 23))
    assert [s.keep for s in schedule.stages] == [288, 144, 72]


@pytest.mark.parametrize("visual", [64, 576, 2880])
@pytest.mark.parametrize("share", [0.25, 0.3, 0.44, 0.6, 0.9])
@pytest.mark.parametrize("num_layers", [7, 28, 32, 40])
def test_counts_are_geometric_and_meet_the_budget(visual: int, share: float, num_layers: int) -> None:
    for retain in (share, round(share * visual)):
        method = PyramidDrop(retain)
        layers = method.stage_layers(num_layers)
        schedule = method.plan(visual, num_layers, layers)
        target = retain if isinstance(retain, int) else retain * visual
        assert abs(schedule.equal_tokens - target) <= 1
        keep = [visual, *(s.keep for s in schedule.stages)]
        ratio = keep[1] / visual
        for i, count in enumerate(keep):
            assert abs(count - visual * ratio**i) <= 0.5 + i  # a rounded first count, to a power


@pytest.mark.parametrize("visual", [64, 576, 2880])
@pytest.mark.parametrize("num_layers", [4, 7, 24, 32, 40])
@pytest.mark.parametrize("share", [0.1, 0.15, 0.2, 1 / 3, 0.5, 0.8])
def test_fitted_meets_every_budget(visual: int, num_layers: int, share: float) -> None:
    retain = max(round(visual * share), 1)
    published = [PyramidDrop.published()] if num_layers >= 32 else []  # its layers are those of the paper
    for method in (PyramidDrop(), *published):
        fitted = method.with_budget(retain, visual, num_layers)
        assert isinstance(fitted, PyramidDrop) and fitted.ratio is None and fitted.retain == retain
        assert fitted.positions == method.positions
        schedule = fitted.plan(visual, num_layers, fitted.stage_layers(num_layers))
        assert abs(schedule.equal_tokens - retain) <= 1


def test_fitted_moves_the_stages_only_where_it_must() -> None:
    """At 576 tokens of 32 layers half stays each time down to 254; below, stages get shorter, and end at one layer.

    Stages of ``n`` layers that keep half come to 576 * (n - 1 + 1.5 + ...) tokens, such as 6: 5 + 3 + 1.5 + 15 / 8.
    """
    method = PyramidDrop()
    assert method.with_budget(288, 576, 32) == PyramidDrop(288)
    assert method.with_budget(0.5, 576, 32) == PyramidDrop(0.5)
    assert method.with_budget(255, 576, 32) == PyramidDrop(255)
    assert method.with_budget(253, 576, 32) == PyramidDrop(253, (6, 13, 20))
    assert method.with_budget(192, 576, 32) == PyramidDrop(192, (4, 9, 14))  # six would be 204.75
    assert method.with_budget(40, 576, 32) == PyramidDrop(40, (0, 1, 2))  # a half would be 81
    assert method.with_budget((300, 200, 100), 576, 32) == PyramidDrop((300, 200, 100))


def test_what_cannot_be_met_is_refused_with_what_is_possible() -> None:
    with pytest.raises(
        BudgetError, match=r"retain=64 of 576 visual tokens cannot be met .*possible are 126 to 576"
    ):
        PyramidDrop(64).plan(576, 32, (7, 15, 23))


def test_it_keeps_what_fastv_keeps_of_the_same_layer() -> None:
    sample = Sample.random(2, 4, 40, 5)
    drop = PyramidDrop(0.5)
    count = drop.plan(40, 32, (7, 15, 23)).stages[0].keep
    assert kept(drop, sample) == kept(FastV((count,)), sample) and 0 < count < 40


@pytest.mark.parametrize("method", [PyramidDrop(0.4), PyramidDrop.published(0.3)], ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_any_batch(method: PyramidDrop, seed: int) -> None:
    check_any_batch(method, seed)


def test_few_tokens_never_come_to_none() -> None:
    assert [s.keep for s in PyramidDrop.published().plan(3, 32, (7, 15, 23)).stages] == [1, 1, 1]


@pytest.mark.parametrize("ratio", [0, 1, 1.5, -0.5, "half", True, math.nan])
def test_bad_ratio(ratio: Any) -> None:
    with pytest.raises(SparseSightError, match=f"ratio={ratio!r}: a fraction between 0 and 1"):
        PyramidDrop(ratio=ratio)
