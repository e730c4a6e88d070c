"""DivPrune: one of every kind, before the language model, whatever is asked."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from sparsesight.core.budget import StageSizes
from sparsesight.methods import DivPrune

from .kept_tokens import check_any_batch, kept
from .stages import Sample, normal


@pytest.mark.parametrize("seed", range(4))
def test_the_rule_in_plain_loops(seed: int) -> None:
    sample = Sample.random(seed, 4, 30, 7)
    hidden = sample.hidden[sample.at_visual].double().numpy()
    unit = hidden / np.linalg.norm(hidden, axis=1, keepdims=True)
    distance = 1 - unit @ unit.T
    chosen = [int(np.sort(distance, axis=1)[:, 1].argmax())]
    while len(chosen) < 11:
        rest = [i for i in range(30) if i not in chosen]
        chosen.append(max(rest, key=lambda i: distance[i, chosen].min()))
    assert kept(DivPrune((11,)), sample) == [sorted(chosen)]


def test_one_of_every_kind_stays() -> None:
    """A picture of five textures, one of which covers most of it; lengths do not count."""
    sample = Sample.random(0, 2, 60, 4)
    kind = torch.zeros(60, dtype=torch.long)
    kind[[7, 30]], kind[[8, 9, 10]], kind[55], kind[12:20] = 1, 2, 3, 4
    length = 1 + 9 * torch.rand(60, 1, generator=torch.Generator().manual_seed(1))
    sample.hidden[2:62] = torch.eye(6)[kind] * length
    sample.hidden[2:62] += 1e-3 * normal(2, 60, 6)
    assert sorted(kind[kept(DivPrune((5,)), sample)[0]].tolist()) == [0, 1, 2, 3, 4]


def test_the_question_has_no_say() -> None:
    sample = Sample.random(1, 4, 40, 6)
    other = dataclasses.replace(sample, hidden=sample.hidden.clone(), rater=~sample.rater)
    other.hidden[sample.at_text] = normal(9, 6, 6)
    assert kept(DivPrune((9,)), sample) == kept(DivPrune((9,)), other)


def test_frames_get_their_share() -> None:
    """Two frames of twenty tokens, one all alike: diversity alone takes one of it at most, by frame it is half."""
    sample = Sample.random(3, 2, 40, 4)
    sample.hidden[2:22] = 1 + 1e-3 * normal(1, 20, 6)
    frames = {"frame": torch.arange(40)[None] // 20, "frame_tokens": torch.full((1, 40), 20)}
    assert sum(i < 20 for i in kept(DivPrune((10,)), sample)[0]) <= 1
    assert sum(i < 20 for i in kept(DivPrune((10,), per_frame=True), sample, **frames)[0]) == 5


def test_as_published() -> None:
    method = DivPrune.published()
    assert method.stage_layers(32) == DivPrune().stage_layers(32) == (-1,)
    assert method.plan(576, 32, (-1,)).entering == (56,) * 32
    assert method.positions == "compact"
    assert DivPrune(64).plan(576, 32, (-1,)).entering == (64,) * 32


@pytest.mark.parametrize("method", [DivPrune(0.4), DivPrune(0.4, layers=(-1, 9)), DivPrune(7)], ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_any_batch(method: DivPrune, seed: int) -> None:
    check_any_batch(method, seed)


def test_overhead() -> None:
    """All pairs once, for the first choice, and every chosen one with all."""
    sizes = StageSizes(
        index=0, tokens_in=576, keep=64, recycled=0, merged=0, text=60, keys=640, width=4096, hidden=4096
    )
    assert DivPrune().overhead(sizes) == (576 * 576 + 64 * 576) * 4096
