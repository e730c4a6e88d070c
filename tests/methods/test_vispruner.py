"""VisPruner: half by attention, half by being unlike; FasterVLM: all by attention."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from sparsesight import FasterVLM, SparseSightError, VisPruner
from sparsesight.core.budget import StageSizes
from tests.ops.test_matching import thinned

from .stages import Sample, build, normal


def kept(method: VisPruner, sample: Sample) -> list[int]:
    return method.select(build(method, [sample])[1]).keep[0].nonzero()[:, 0].tolist()


@pytest.mark.parametrize("seed", range(5))
def test_as_in_loops(seed: int) -> None:
    """The published steps of 8, for 90 tokens: 20 by attention, 20 of the others."""
    sample = Sample.random(seed, 3, 90, 4)
    assert sample.looked_at is not None
    features = sample.hidden[sample.at_visual]
    expected = sorted(thinned(features, sample.looked_at, 40, 20, 8))
    assert kept(VisPruner((40,), step=8), sample) == expected
    assert kept(VisPruner((40,), step=8 / 90), sample) == expected


def test_the_default_step_is_the_published_one_of_576() -> None:
    sample = Sample.random(1, 0, 576, 2)
    assert kept(VisPruner((64,)), sample) == kept(VisPruner.published(64), sample)
    assert len(kept(VisPruner((64,)), sample)) == 64


def test_duplicates_of_what_is_left_go() -> None:
    """Four loud tokens; twelve quiet ones in four kinds of three: one of each kind stays."""
    sample = Sample.random(0, 1, 16, 2)
    sample.looked_at = torch.tensor([1.0] * 4 + [0.1 - 0.001 * i for i in range(12)])
    kind = torch.arange(12) // 3
    sample.hidden[sample.at_visual][4:] = (
        torch.eye(6)[kind] * (1 + torch.arange(12.0))[:, None]
    )  # lengths differ
    found = kept(VisPruner((8,), step=1), sample)
    assert found[:4] == [0, 1, 2, 3]
    assert sorted(kind[i - 4].item() for i in found[4:]) == [0, 1, 2, 3]


def test_all_by_attention_is_faster_vlm() -> None:
    sample = Sample.random(2, 2, 50, 3)
    assert sample.looked_at is not None
    best = sorted(sample.looked_at.argsort(descending=True)[:17].tolist())
    assert kept(FasterVLM((17,)), sample) == kept(VisPruner((17,), important=1.0), sample) == best
    assert FasterVLM.published(29) == FasterVLM(29, positions="compact", judged_by="prompt")


def test_none_by_attention_still_starts_from_its_order() -> None:
    sample = Sample.random(2, 2, 30, 3)
    assert sample.looked_at is not None
    expected = sorted(thinned(sample.hidden[sample.at_visual], sample.looked_at, 10, 0, 4))
    assert kept(VisPruner((10,), important=0.0, step=4), sample) == expected


def test_equal_tokens_keep_the_earlier() -> None:
    sample = Sample.random(0, 0, 12, 1)
    sample.looked_at = torch.full((12,), 0.5)
    assert kept(FasterVLM((5,)), sample) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("step", [1, 8, 0.01, 1 / 72, 0.3, 1.0])
@pytest.mark.parametrize("visual", [1, 2, 9, 40, 150])
def test_rounds_are_enough(step: Any, visual: int) -> None:
    """What is kept is what the rounds leave, not what the count cuts off."""
    sample = Sample.random(visual, 0, visual, 2)
    assert sample.looked_at is not None
    for keep in {1, max(visual // 2, 1)}:
        rate = step if isinstance(step, int) else max(math.ceil(step * visual - 1e-4), 1)
        expected = thinned(sample.hidden[sample.at_visual], sample.looked_at, keep, keep // 2, rate)
        assert kept(VisPruner((keep,), step=step), sample) == sorted(expected[:keep])


@pytest.mark.parametrize("field", ["important", "step"])
@pytest.mark.parametrize("value", [-1, 1.5, math.nan, "8", True, 0.001])
def test_bad_fields(field: str, value: Any) -> None:
    if (field, value) == ("important", 0.001):
        return
    with pytest.raises(SparseSightError, match=f"{field}={value!r}: a "):
        VisPruner(**{field: value})


def test_what_it_costs() -> None:
    sizes = StageSizes(
        index=0, tokens_in=576, keep=64, recycled=0, merged=0, text=40, keys=650, width=4096, hidden=4096
    )
    assert VisPruner(64).overhead(sizes) == 576**2 * 4096
    assert FasterVLM(64).overhead(sizes) == 0


def test_a_spread_of_features_decides_the_second_half() -> None:
    """The same attention, other features: the first half stays, the second changes."""
    one, other = Sample.random(5, 0, 80, 2), Sample.random(5, 0, 80, 2)
    other.hidden = normal(99, 82, 6)
    a, b = kept(VisPruner((30,)), one), kept(VisPruner((30,)), other)
    assert one.looked_at is not None
    loud = set(one.looked_at.argsort(descending=True)[:15].tolist())
    assert loud <= set(a) & set(b) and a != b
