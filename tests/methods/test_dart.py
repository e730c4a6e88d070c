"""DART: pivots by the norm of their keys, then what is least like them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sparsesight import SparseSightError
from sparsesight.core.budget import StageSizes
from sparsesight.methods import DART

from .kept_tokens import check_any_batch, kept
from .stages import Sample, normal


def reference(sample: Sample, keep: int, pivots: int, text_pivots: int) -> list[int]:
    """The rule in plain loops over numpy arrays."""
    norm = sample.key.abs().double().sum((0, 2)).numpy()
    hidden = sample.hidden.double().numpy()
    unit = hidden / np.linalg.norm(hidden, axis=1, keepdims=True)
    first, end = sample.before, sample.before + sample.visual
    chosen = sorted(range(first, end), key=lambda i: -norm[i])[: min(pivots, keep)]
    texts = sorted(range(end, sample.length), key=lambda i: -norm[i])[:text_pivots]
    everyone = [*chosen, *texts]
    rest = keep - len(chosen)
    for nth, pivot in enumerate(everyone):
        share = rest // len(everyone) + (nth < rest % len(everyone))
        free = [i for i in range(first, end) if i not in chosen]
        chosen += sorted(free, key=lambda i: unit[i] @ unit[pivot])[:share]
    return sorted(i - first for i in chosen)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("keep", [1, 4, 5, 12, 13, 29])
@pytest.mark.parametrize("pivots", [(4, 4), (1, 0), (0, 2), (3, 30)])
def test_the_rule_in_plain_loops(seed: int, keep: int, pivots: tuple[int, int]) -> None:
    sample = Sample.random(seed, 4, 30, 7)
    assert kept(DART((keep,), pivots=pivots[0], text_pivots=pivots[1]), sample) == [
        reference(sample, keep, *pivots)
    ]


def test_duplicates_of_a_pivot_go() -> None:
    """Thirty tokens say the same as the pivots, ten each something else: these are kept."""
    sample = Sample.random(0, 2, 44, 5)
    own = [1, 5, 9, 13, 20, 22, 30, 33, 40, 43]
    pivots = [3, 17, 28, 36]
    basis = torch.eye(16)
    sample.hidden = basis[0] + 0.01 * normal(5, sample.length, 16)
    for n, i in enumerate(own):
        sample.hidden[2 + i] = basis[1 + n]
    sample.key[:, [2 + i for i in pivots]] *= 100
    assert kept(DART((14,)), sample) == [sorted(own + pivots)]


def test_text_pivots_take_their_share() -> None:
    """One visual and one text pivot: each takes the one token that is opposite to it."""
    sample = Sample.random(0, 1, 10, 3)
    sample.hidden = torch.ones(14, 4) + 0.01 * normal(1, 14, 4)
    sample.key[:, 1 + 6] *= 100
    sample.key[:, 11 + 1] *= 100
    sample.hidden[1 + 6], sample.hidden[1 + 2] = torch.eye(4)[0], -torch.eye(4)[0]
    sample.hidden[11 + 1], sample.hidden[1 + 8] = torch.eye(4)[1], -torch.eye(4)[1]
    assert kept(DART((3,), pivots=1, text_pivots=1), sample) == [[2, 6, 8]]


def test_cached_keys_stand_before_the_prompts() -> None:
    """A later turn: keys of the turns before are no pivots, however long they are."""
    sample = Sample.random(3, 4, 30, 7)
    expected = kept(DART((13,)), sample)
    past = 100 * normal(8, 1, *sample.key.shape[:1], 5, sample.key.shape[2])
    key = torch.cat((past, sample.key[None]), 2)
    column = torch.arange(30)[None] + 4 + 5
    seen = {"mask": torch.ones(1, 1, 1, 46, dtype=torch.bool), "key_position": torch.arange(46)[None]}
    assert kept(DART((13,)), sample, key=key, key_column=column, **seen) == expected


def test_as_published() -> None:
    method = DART.published(192)
    assert method.stage_layers(32) == DART().stage_layers(32) == (1,)
    assert (method.pivots, method.text_pivots) == (4, 4)
    assert method.plan(576, 32, (1,)).entering == (576, 576) + (192,) * 30


@pytest.mark.parametrize("method", [DART(0.4), DART(0.2, pivots=0), DART(0.4, text_pivots=0)], ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_any_batch(method: DART, seed: int) -> None:
    check_any_batch(method, seed)


def test_every_pivot_is_compared_with_every_token() -> None:
    sizes = StageSizes(
        index=0, tokens_in=576, keep=128, recycled=0, merged=0, text=60, keys=640, width=4096, hidden=5120
    )
    assert DART().overhead(sizes) == 8 * 576 * 5120


@pytest.mark.parametrize(
    "options",
    [{"pivots": -1}, {"pivots": 1.5}, {"pivots": True}, {"text_pivots": "4"}, {"text_pivots": None}],
)
def test_bad_fields(options: dict[str, Any]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(SparseSightError, match=f"{name}={value!r}: a whole number from 0"):
        DART(**options)


def test_there_must_be_a_pivot() -> None:
    with pytest.raises(SparseSightError, match="pivots=0, text_pivots=0: "):
        DART(pivots=0, text_pivots=0)
