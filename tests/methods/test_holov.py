"""HoloV: crops share the budget by their scores."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from sparsesight import HoloV, SparseSightError

from .stages import Sample, build


def kept(method: HoloV, sample: Sample) -> list[int]:
    return method.select(build(method, [sample])[1]).keep[0].nonzero()[:, 0].tolist()


def by_hand(sample: Sample, keep: int, crops: int, balance: float, by_attention: bool) -> list[int]:
    """Section 3 in numpy, with shares by loops."""
    assert sample.looked_at is not None
    attention, x = sample.looked_at.double().numpy(), sample.hidden[sample.at_visual].double().numpy()
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    parts = [part for part in np.array_split(np.arange(len(x)), crops) if len(part)]
    scores, weights = [], []
    for part in parts:
        alike = unit[part] @ unit[part].T
        n = len(part)
        var = np.array([np.delete(alike[i], i).var() if n > 1 else 0.0 for i in range(n)])
        scale = attention[part].mean() / max(var.mean(), 1e-38)
        score = attention[part] + balance * scale * var
        weights.append(score.mean())
        scores.append(attention[part] if by_attention else score)
    given = [0] * len(parts)
    while keep > sum(given):
        free = [i for i in range(len(parts)) if given[i] < len(parts[i])]
        rest, total = keep - sum(given), sum(weights[i] for i in free)
        more = {i: int(rest * weights[i] / total) for i in free}
        for i in sorted(free, key=lambda i: -weights[i])[: rest - sum(more.values())]:
            more[i] += 1
        for i in free:
            given[i] = min(given[i] + more[i], len(parts[i]))
    return sorted(
        int(part[i])
        for part, score, share in zip(parts, scores, given, strict=True)
        for i in np.argsort(-score, kind="stable")[:share]
    )


@pytest.mark.parametrize("by_attention", [False, True])
@pytest.mark.parametrize(
    ("visual", "keep", "crops"), [(96, 20, 16), (576, 64, 16), (50, 33, 7), (5, 3, 16), (40, 9, 1)]
)
def test_by_hand(visual: int, keep: int, crops: int, by_attention: bool) -> None:
    for seed in range(4):
        sample = Sample.random(seed, 2, visual, 3)
        method = HoloV((keep,), crops=crops, balance=0.5, by_attention=by_attention)
        found = kept(method, sample)
        assert found == by_hand(sample, keep, crops, 0.5, by_attention) and len(found) == keep


def test_every_crop_has_its_share_where_attention_alone_would_have_one() -> None:
    """One of four crops is twice as loud as each other: of 21 it has 8.4, the others 4.2; the one left is its."""
    sample = Sample.random(0, 0, 64, 2)
    sample.looked_at = torch.full((64,), 1.0)
    sample.looked_at[:16] = 2.0
    found = np.array(kept(HoloV((21,), crops=4), sample))
    assert [int((found // 16 == crop).sum()) for crop in range(4)] == [9, 4, 4, 4]


def test_unlike_tokens_are_preferred_where_attention_is_equal() -> None:
    """Likeness varies most for the one whose likes are few and whose unlikes are many."""
    sample = Sample.random(0, 0, 9, 2)
    sample.looked_at = torch.ones(9)
    x = torch.eye(6)[[0, 1, 2, 3, 0, 4, 5, 2, 1]]
    x[5:7] = torch.eye(6)[[0, 0]]  # four tokens of kind 0, pairs of 1 and 2, one of 3
    sample.hidden[sample.at_visual] = x
    found = kept(HoloV((4,), crops=1), sample)
    assert found == [0, 4, 5, 6]  # variance 15/64 for kind 0, 7/64 for pairs, 0 for the single one
    assert kept(HoloV((4,), crops=1, by_attention=True), sample) == [0, 1, 2, 3]


def test_tokens_without_a_patch_come_last() -> None:
    sample = Sample.random(3, 0, 32, 2)
    assert sample.looked_at is not None
    sample.looked_at[::4] = -math.inf
    found = kept(HoloV((12,), crops=4), sample)
    assert len(found) == 12 and not any(i % 4 == 0 for i in found)
    assert len(kept(HoloV((28,), crops=4), sample)) == 28


@pytest.mark.parametrize(
    "options", [{"crops": 0}, {"crops": 2.5}, {"crops": True}, {"balance": -1}, {"balance": "x"}]
)
def test_bad_fields(options: dict[str, Any]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(SparseSightError, match=f"{name}={value!r}: a "):
        HoloV(**options)


def test_published() -> None:
    plain = HoloV(64, positions="compact", crops=16, balance=0.09, by_attention=True)
    assert HoloV.published(64) == replace(plain, judged_by="prompt")
