"""SCOPE and MMTok: coverage of the picture, weighted by attention, or of the picture and the question."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sparsesight.core.budget import StageSizes
from sparsesight.errors import SparseSightError
from sparsesight.methods import SCOPE, MMTok

from .kept_tokens import check_any_batch, kept
from .stages import Sample, normal


def greedy(cover: np.ndarray, weight: np.ndarray, keep: int) -> list[int]:
    chosen: list[int] = []
    while len(chosen) < keep:
        covered = cover[:, chosen].max(1) if chosen else np.zeros(len(cover))
        gain = weight * np.maximum(cover - covered[:, None], 0).sum(0)
        gain[chosen] = -1
        chosen.append(int(gain.argmax()))
    return sorted(chosen)


def unit(sample: Sample) -> np.ndarray:
    hidden = sample.hidden.double().numpy()
    return hidden / np.linalg.norm(hidden, axis=1, keepdims=True)


@pytest.mark.parametrize("seed", range(3))
def test_scope_in_plain_loops(seed: int) -> None:
    sample = Sample.random(seed, 4, 30, 7)
    assert sample.looked_at is not None
    attention, visual = sample.looked_at.double().numpy(), unit(sample)[sample.at_visual]
    cover = np.maximum(visual @ visual.T, 0)
    for alpha in (1.0, 0.5, 0.0):
        assert kept(SCOPE((9,), alpha=alpha), sample) == [greedy(cover, attention**alpha, 9)]


def test_a_token_without_a_patch_is_the_last_to_stay() -> None:
    sample = Sample.random(0, 2, 20, 3)
    assert sample.looked_at is not None
    sample.looked_at[[3, 8]] = -torch.inf
    for alpha in (0.0, 1.0):
        assert not {3, 8} & set(kept(SCOPE((9,), alpha=alpha), sample)[0])
        assert len(kept(SCOPE((19,), alpha=alpha), sample)[0]) == 19


@pytest.mark.parametrize("seed", range(3))
def test_mmtok_in_plain_loops(seed: int) -> None:
    sample = Sample.random(seed, 4, 30, 7)
    sample.hidden = normal(seed + 70, sample.length, 24)
    both, visual = unit(sample), unit(sample)[sample.at_visual]

    def shares(target: np.ndarray, temperature: float) -> np.ndarray:
        weight = np.exp(target @ visual.T / temperature)
        return weight / weight.sum(1, keepdims=True) / len(target)

    text, picture = shares(both[sample.at_text], 0.05), shares(visual, 0.2)
    method = MMTok((9,), alpha=0.5, text_temperature=0.05)
    assert kept(method, sample) == [greedy(np.concatenate((text, 0.5 * picture)), np.ones(30), 9)]
    assert kept(MMTok((9,), alpha=0, text_temperature=0.05), sample) == [greedy(text, np.ones(30), 9)]


@pytest.mark.parametrize("method", [SCOPE(0.4), SCOPE(7), MMTok(0.4), MMTok(7), MMTok(7, alpha=0.0)], ids=str)
@pytest.mark.parametrize("seed", range(2))
def test_any_batch(method: SCOPE | MMTok, seed: int) -> None:
    check_any_batch(method, seed)


def test_settings() -> None:
    assert SCOPE.published(128) == SCOPE(128, positions="compact", judged_by="prompt")
    for wrong in ({"alpha": -1}, {"text_temperature": 0.0}, {"visual_temperature": True}):
        with pytest.raises(SparseSightError, match=next(iter(wrong))):
            MMTok(**wrong)  # type: ignore[arg-type]
    with pytest.raises(SparseSightError, match="alpha"):
        SCOPE(alpha=-0.5)


def test_overhead() -> None:
    sizes = StageSizes(
        index=0, tokens_in=576, keep=64, recycled=0, merged=0, text=60, keys=640, width=4096, hidden=4096
    )
    assert SCOPE().overhead(sizes) == 576 * 576 * (4096 + 64)
    assert MMTok().overhead(sizes) == (576 + 60) * 576 * (4096 + 64)
    assert MMTok(alpha=0).overhead(sizes) == 60 * 576 * (4096 + 64)
