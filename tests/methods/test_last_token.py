"""Last token and FastV: what one row attends to, and nothing else, decides."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sparsesight.core.budget import Stage, StageSizes
from sparsesight.methods import FastV, LastToken

from .kept_tokens import check_any_batch, kept
from .stages import Sample, build
from .test_sparsevlm import attention


@pytest.mark.parametrize("seed", range(3))
def test_score_is_the_last_tokens_attention(seed: int) -> None:
    sample = Sample.random(seed, 4, 30, 9)
    for method in (LastToken((10, 5, 3)), FastV((10,))):
        _, stage = build(method, [sample])
        np.testing.assert_allclose(
            method.score(stage)[0].numpy(), attention(sample)[:, -1].mean(0), rtol=1e-5
        )


def test_what_the_last_token_looks_at_stays() -> None:
    """The other text looks hard elsewhere, and is all that rates; one of four heads looks elsewhere too."""
    sample = Sample.random(0, 3, 40, 6, heads=4, groups=4)
    wanted, decoys, of_one_head = [1, 8, 20, 33, 39], [2, 9, 21, 34, 38], [5, 6, 7]
    sample.key.zero_()
    sample.query.zero_()
    sample.key[:, [3 + x for x in wanted], 0] = 6.0
    sample.key[:, [3 + x for x in decoys], 1] = 20.0
    sample.key[3, [3 + x for x in wanted], 0] = 0
    sample.key[3, [3 + x for x in of_one_head], 0] = 1.0
    sample.query[:, -1, 0], sample.query[:, 43:-1, 1] = 2.0, 9.0
    sample.rater = torch.tensor([True] * 5 + [False])
    for method in (LastToken((5, 4, 3)), FastV((5,))):
        assert kept(method, sample) == [wanted]


def test_a_mask_of_one_row_serves_all_rows() -> None:
    """Hosts may give a mask that does not depend on the row, or one that is added."""
    method, samples = FastV((9,)), [Sample.random(0, 4, 30, 9), Sample.random(1, 2, 20, 3)]
    _, stage = build(method, samples, poison=3.0)
    assert stage.at is not None
    mask = stage.at.mask[:, :, -1:]
    added = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    for given in (mask, added):
        _, other = build(method, samples, poison=3.0, mask=given)
        assert torch.equal(method.select(other).keep, method.select(stage).keep)


@pytest.mark.parametrize("method", [LastToken(0.4), FastV(0.4), FastV(0.4, layers=(4, 20))], ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_any_batch(method: LastToken, seed: int) -> None:
    check_any_batch(method, seed)


def test_fastv_as_published() -> None:
    """K = 2: two layers see all of the picture, thirty see half of it."""
    method = FastV.published()
    assert method.stage_layers(32) == FastV().stage_layers(32) == (1,)
    assert method.stage_layers(40) == (1,)
    schedule = method.plan(576, 32, (1,))
    assert schedule.entering == (576,) * 2 + (288,) * 30
    assert FastV.published(144).plan(576, 32, (1,)).stages == (Stage(1, 576, 144),)
    assert abs(FastV(64).plan(576, 32, (1,)).equal_tokens - 64) <= 0.5


def test_one_row_of_attention_is_what_it_costs() -> None:
    sizes = StageSizes(
        index=0, tokens_in=576, keep=288, recycled=0, merged=0, text=60, keys=640, width=4096, hidden=5120
    )
    assert FastV().overhead(sizes) == LastToken().overhead(sizes) == 640 * 4096
