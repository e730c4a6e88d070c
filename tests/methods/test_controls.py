"""The controls that look at nothing: Uniform and Pooling."""

from __future__ import annotations

import math

import pytest
import torch

from sparsesight import Pooling, Uniform
from sparsesight.core.budget import BEFORE
from sparsesight.core.rows import advance

from .stages import Sample, build


def square(seed: int, *sides: int) -> Sample:
    """Pictures of so many tokens a side."""
    sample = Sample.random(seed, 2, sum(s * s for s in sides), 3)
    sample.frame = torch.cat([torch.full((s * s,), i) for i, s in enumerate(sides)])
    return sample


@pytest.mark.parametrize("keep", [1, 5, 64, 100, 143, 144])
def test_uniform_of_one_picture(keep: int) -> None:
    method = Uniform((keep,))
    _, stage = build(method, [square(0, 12)])
    found = method.select(stage).keep[0].nonzero()[:, 0].tolist()
    assert found == [math.floor((j + 0.5) * 144 / keep) for j in range(keep)]


def test_uniform_of_two_pictures_with_and_without_per_frame() -> None:
    """36 and 144 tokens: 10 are 2 and 8, each evenly spaced in its own."""
    expected = [9, 27, *(36 + 9 + 18 * j for j in range(8))]
    for per_frame in (False, True):
        method = Uniform((10,), per_frame=per_frame)
        _, stage = build(method, [square(0, 6, 12)])
        assert method.select(stage).keep[0].nonzero()[:, 0].tolist() == expected


def test_uniform_sees_nothing_of_the_picture() -> None:
    method = Uniform((17,))
    keep = [method.select(build(method, [square(seed, 8)])[1]).keep for seed in (0, 1)]
    assert torch.equal(*keep)


@pytest.mark.parametrize("per_frame", [False, True])
def test_pooling_of_two_pictures(per_frame: bool) -> None:
    """36 and 144 tokens to 4 and 16: average pooling by three, standing in the middles."""
    method, sample = Pooling((20,), per_frame=per_frame), square(0, 6, 12)
    rows, stage = build(method, [sample])
    selection = method.select(stage)
    assert not selection.keep.any()
    _, hidden = advance(rows, [(stage, selection)], 2 + 20 + 3, False)
    x = sample.hidden[sample.at_visual]
    images = [y.T.reshape(1, -1, s, s) for y, s in ((x[:36], 6), (x[36:], 12))]
    expected = torch.cat([torch.nn.functional.avg_pool2d(i, 3).flatten(2)[0].T for i in images])
    torch.testing.assert_close(hidden[0, 2:22], expected)
    after, _ = advance(rows, [(stage, selection)], 2 + 20 + 3, False)
    assert after.source[0, 2:6].tolist() == [2 + 6 * r + c for r in (1, 4) for c in (1, 4)]


@pytest.mark.parametrize("retain", [1, 7, 64, 192, 575])
def test_pooling_meets_the_budget(retain: int) -> None:
    method = Pooling(retain)
    schedule = method.plan(576, 32, (BEFORE,))
    assert schedule.equal_tokens == retain
    selection = method.select(build(method, [square(1, 24)])[1])
    assert selection.merge is not None and selection.merge.exists.sum() == retain
    assert selection.counts.tokens_out == (retain,)


def test_nothing_to_do() -> None:
    for kind in (Uniform, Pooling):
        assert kind(576).plan(576, 32, (BEFORE,)).stages == () == kind(1.0).plan(576, 32, (BEFORE,)).stages
