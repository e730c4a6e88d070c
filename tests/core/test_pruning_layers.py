"""The layers after which a method prunes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsesight import BudgetError
from sparsesight.core.budget import (
    BEFORE,
    check_layers,
    pruning_layers,
)

# -- pruning layers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_layers", "expected"),
    [
        (32, (2, 6, 15)),
        (64, (4, 12, 30)),
        (40, (2, 7, 18)),
        (28, (1, 5, 13)),
        (24, (1, 4, 11)),
        (16, (1, 3, 7)),
        (8, (0, 1, 3)),
        (6, (0, 1, 2)),
        (4, (0, 1, 2)),
    ],
)
def test_pruning_layers_keep_their_relative_depth(num_layers: int, expected: tuple[int, ...]) -> None:
    assert pruning_layers((2, 6, 15), num_layers) == expected


@pytest.mark.parametrize("depths", [(1,), (2, 6, 15), (2, 6, 15, 19)])
def test_pruning_layers_of_any_depth(depths: tuple[int, ...]) -> None:
    for num_layers in range(len(depths) + 1, 130):
        layers = pruning_layers(depths, num_layers)
        assert len(layers) == len(depths)
        check_layers(layers, num_layers)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(4, 64), st.data())
def test_pruning_layers_within_the_allowed(num_layers: int, data: st.DataObject) -> None:
    choices = st.sets(st.integers(0, num_layers - 2), min_size=3)
    allowed = tuple(sorted(data.draw(choices)))
    layers = pruning_layers((2, 6, 15), num_layers, allowed)
    assert len(layers) == 3 and set(layers) <= set(allowed) and all(a < b for a, b in pairwise(layers))
    if set(pruning_layers((2, 6, 15), num_layers)) <= set(allowed):
        assert layers == pruning_layers((2, 6, 15), num_layers)


def test_pruning_layers_move_to_the_nearest_allowed() -> None:
    assert pruning_layers((2, 6, 15), 32, tuple(range(8, 31))) == (8, 9, 15)
    assert pruning_layers((2, 6, 15), 32, (0, 3, 5, 14, 20)) == (3, 5, 14)
    assert pruning_layers((2, 6, 15), 32, (0, 4, 20)) == (0, 4, 20)
    assert pruning_layers((6,), 32, (5, 7)) == (5,)  # a tie goes to the earlier layer


def test_before_the_first_layer_moves_only_where_it_must() -> None:
    before = (BEFORE, 15)
    assert pruning_layers(before, 32) == before == pruning_layers(before, 32, (BEFORE, 4, 15))
    assert pruning_layers(before, 32, tuple(range(2, 31))) == (2, 15)  # deepstack
    assert pruning_layers((BEFORE,), 32, (20, 25)) == (20,) and pruning_layers(before, 32, (20, 25)) == (
        20,
        25,
    )
    assert pruning_layers((2,), 32, (BEFORE, 20)) == (20,)  # what reads attention never moves before it
    with pytest.raises(BudgetError, match="offers 1 pruning layers, but the method has 2 stages"):
        pruning_layers(before, 32, (20,))


@pytest.mark.parametrize(("num_layers", "allowed"), [(3, None), (1, None), (32, (4, 5))])
def test_too_few_layers_to_prune_at(num_layers: int, allowed: tuple[int, ...] | None) -> None:
    offered = num_layers - 1 if allowed is None else len(allowed)
    with pytest.raises(
        BudgetError, match=rf"of {num_layers} layers offers {offered} pruning layers.*layers=\("
    ):
        pruning_layers((2, 6, 15), num_layers, allowed)
