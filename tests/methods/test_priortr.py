"""PriorTR: what the last token attends to more than a token that cannot see the question."""

from __future__ import annotations

import numpy as np
import pytest

from sparsesight.core.budget import StageSizes
from sparsesight.methods import PriorTR

from .kept_tokens import check_any_batch, kept
from .stages import Sample


def attention(sample: Sample, row: int) -> np.ndarray:
    """Of a row of the prompt to the visual tokens, averaged over heads, scaled to one."""
    query, key = sample.query.double().numpy()[:, row], sample.key.double().numpy()
    key = key.repeat(len(query) // len(key), 0)[:, : row + 1]
    logits = np.einsum("hd,hkd->hk", query, key) / np.sqrt(query.shape[1])
    weight = np.exp(logits)
    weight = (weight / weight.sum(1, keepdims=True)).mean(0)[sample.at_visual]
    return np.asarray(weight / weight.sum())


@pytest.mark.parametrize("seed", range(4))
def test_the_rule_in_plain_loops(seed: int) -> None:
    sample = Sample.random(seed, 4, 30, 7)
    p, q = attention(sample, sample.length - 1), attention(sample, 4 + 30)
    best = np.argsort(-p * np.log(p / q), kind="stable")[:11]
    assert kept(PriorTR((11,)), sample) == [sorted(best.tolist())]


def test_one_text_token_says_nothing() -> None:
    """Reader and probe are the same: all scores are zero, and the first tokens stay."""
    assert kept(PriorTR((5,)), Sample.random(1, 4, 20, 1)) == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize("method", [PriorTR(0.4), PriorTR(7, (0,))], ids=str)
@pytest.mark.parametrize("seed", range(2))
def test_any_batch(method: PriorTR, seed: int) -> None:
    check_any_batch(method, seed)


def test_as_published_and_overhead() -> None:
    method = PriorTR.published(128)
    assert method.stage_layers(32) == PriorTR().stage_layers(32) == (2,)
    assert method.plan(576, 32, (2,)).entering == (576,) * 3 + (128,) * 29
    sizes = StageSizes(
        index=0, tokens_in=576, keep=64, recycled=0, merged=0, text=60, keys=640, width=4096, hidden=4096
    )
    assert method.overhead(sizes) == 2 * 640 * 4096
