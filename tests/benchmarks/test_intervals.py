"""Intervals resample scenes, not questions; differences are paired."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.probing.intervals import ALL, GROUPS, SINGLE, by_group, difference, estimate, groups
from sparsesight.scenes.dataset import examples

SCENE = np.arange(40)
HALF = SCENE % 2 == 0


def test_share_and_interval() -> None:
    found = estimate(HALF, SCENE)
    assert (found["n"], found["scenes"], found["share"]) == (40, 40, 0.5)
    # 1.96 standard errors of a share of 0.5 in 40 scenes are 0.155.
    assert abs(found["low"] - 0.345) < 0.03 and abs(found["high"] - 0.655) < 0.03
    assert found == estimate(HALF, SCENE)


@pytest.mark.parametrize(("scenes", "edge"), [(1, 0.025), (10, 0.6915), (16, 0.7941), (40, 0.9119)])
def test_all_or_none_right_is_not_certain(scenes: int, edge: float) -> None:
    """Clopper and Pearson's interval, as in tables of it; more questions about a scene make it no narrower."""
    for times in (1, 9):
        scene = np.arange(scenes).repeat(times)
        sure, never = (estimate(np.full(len(scene), right), scene) for right in (True, False))
        assert (sure["share"], sure["low"], sure["high"]) == (1, pytest.approx(edge, abs=1e-4), 1)
        assert (never["share"], never["low"], never["high"]) == (0, 0, pytest.approx(1 - edge, abs=1e-4))


def test_more_of_the_same_in_a_scene_tells_nothing_new() -> None:
    once, often = estimate(HALF, SCENE), estimate(HALF.repeat(9), SCENE.repeat(9))
    assert often["n"] == 9 * once["n"]
    assert (often["low"], often["high"]) == (once["low"], once["high"])


def test_difference_is_paired() -> None:
    same = difference(HALF, HALF, SCENE)
    assert (same["difference"], same["low"], same["high"]) == (0, 0, 0)
    better = difference(np.ones(40, dtype=bool), HALF, SCENE)
    assert better["difference"] == 0.5 and 0.3 < better["low"] < 0.5 < better["high"] < 0.7


def test_groups_hold_every_example() -> None:
    asked = list(examples("test", 3))
    assert {name for example in asked for name in groups(example)} <= set(GROUPS)
    right = np.array([example.question.kind == "color" for example in asked])
    found = by_group(right, asked)
    assert found[ALL]["n"] == len(asked) and found["color"]["share"] == 1
    assert found["shape"]["share"] == 0 and found[SINGLE]["n"] < len(asked)
    assert sum(found[name]["n"] for name in ("small", "large", "no object") if name in found) == len(asked)
