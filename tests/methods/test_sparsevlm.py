"""SparseVLM: what the raters look at stays; the rank rule; recycling fractions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from sparsesight import SparseSightError, SparseVLM, ops
from sparsesight.core.budget import recycled_counts

from .stages import Sample, build


def attention(sample: Sample) -> np.ndarray:
    """[h, after, visual]: the softmax of each text row over all it may see, written out."""
    h, d = sample.query.shape[0], sample.query.shape[2]
    g, out = sample.key.shape[0], []
    for head in range(h):
        for i in range(sample.before + sample.visual, sample.length):
            keys = sample.key[head // (h // g), : i + 1].double().numpy()
            logits = keys @ sample.query[head, i].double().numpy() / math.sqrt(d)
            weight = np.exp(logits - logits.max())
            out.append((weight / weight.sum())[sample.at_visual])
    return np.array(out).reshape(h, sample.after, sample.visual)


@pytest.mark.parametrize("seed", range(3))
def test_score_is_the_mean_attention_of_the_raters(seed: int) -> None:
    sample = Sample.random(seed, 4, 30, 9)
    _, stage = build(SparseVLM((10, 5, 3)), [sample])
    expected = attention(sample)[:, sample.rater.numpy()].mean((0, 1))
    np.testing.assert_allclose(SparseVLM().score(stage)[0].numpy(), expected, rtol=1e-5)


def test_the_raters_decide() -> None:
    """Raters look at eight tokens, more at one than at the next; the other text looks hard at eight others."""
    sample = Sample.random(0, 3, 40, 6)
    places = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    wanted, decoys, rest = places[:8], places[8:16], places[16:]
    sample.rater = torch.tensor([True, False, False, True, False, False])
    sample.key.zero_()
    sample.key[:, 3 + wanted, 0] = torch.linspace(9, 6, 8)
    sample.key[:, 3 + decoys, 1] = 20.0
    sample.key[:, 3 + rest, 0] = torch.linspace(3, 1, 24)
    sample.query.zero_()
    text = sample.query[:, sample.at_text]
    text[:, sample.rater, 0], text[:, ~sample.rater, 1] = 3.0, 9.0
    method = SparseVLM((8,))
    _, stage = build(method, [sample])
    selection = method.select(stage)
    assert selection.keep[0].nonzero()[:, 0].tolist() == sorted(wanted.tolist())
    # Of 32 dropped the best ten are merged, into two: the raters' order goes on, and the decoys are not among them.
    assert selection.recycled is not None and selection.recycled[0].tolist() == rest[:10].tolist()
    assert selection.counts.merged == (2,)


def test_rank_rule() -> None:
    """Planted rank: text rows that look in three directions, of tokens that come in three kinds."""
    sample = Sample.random(0, 0, 30, 9)
    kinds, d = torch.arange(30) % 3, sample.key.shape[2]
    sample.rater[:] = True
    sample.key[:, :30] = 4 * torch.eye(d)[kinds]
    sample.query[:, 30:] = torch.eye(d)[torch.arange(9) % 3]
    sample.key[:, 30:] = 0  # text looks alike to every row ...
    sample.query = sample.query[:1].expand_as(sample.query)  # ... and every head
    mean = attention(sample).mean(0)
    rank = int(np.linalg.matrix_rank(mean, rtol=30 * np.finfo(np.float32).eps))
    assert rank == 3
    for scale, bias, recycle in (
        (2.5, 0.0, 0.3),
        (1.0, 6.5, 0.3),
        (0.2, 0.0, 0.5),
        (50.0, 0.0, 0.3),
        (3.0, 1.0, 0.9),
    ):
        method = SparseVLM(1.0, (2,), adaptive=True, scale=scale, bias=bias, recycle=recycle)
        _, stage = build(method, [sample])
        assert stage.planned is None
        keep = min(int(rank * scale + bias), 29)
        counts = method.counts(stage)
        assert counts.keep.tolist() == [keep]
        assert (counts.recycled[0], counts.merged[0]) == recycled_counts(30 - keep, recycle)
        assert counts.recycle.tolist() == list(counts.recycled)
        selection = method.select(stage)
        assert int(selection.keep.sum()) == keep
        best = torch.from_numpy(mean.mean(0)).argsort(descending=True, stable=True)
        assert (
            keep == 0
            or mean.mean(0)[selection.keep[0].numpy()].min() >= mean.mean(0)[best[keep:]].max() - 1e-6
        )


def test_rank_rule_keeps_all_at_full_rank() -> None:
    sample = Sample.random(0, 0, 4, 9)
    sample.rater[:] = True
    _, stage = build(SparseVLM.v1_0(), [sample])
    assert ops.attention_rank(stage.attention.mean_attention(), stage.rater, stage.visual).tolist() == [4]
    counts = SparseVLM.v1_0().counts(stage)
    assert counts.keep.tolist() == [4] and counts.merged == (0,)


def test_rank_rule_leaves_a_sample_without_text_alone() -> None:
    samples = [Sample.random(0, 2, 30, 4), Sample.random(1, 2, 20, 0)]
    method = SparseVLM.video()
    _, stage = build(method, samples)
    counts = method.counts(stage)
    assert counts.keep[1] == counts.tokens_out[1] == 20 and counts.keep[0] <= 4


def test_presets() -> None:
    assert SparseVLM.published(128) == SparseVLM(128, (2, 6, 15), "compact", True, judged_by="prompt")
    rule = SparseVLM(1.0, (2, 6, 15, 19), "compact", adaptive=True, scale=9, bias=6, judged_by="prompt")
    assert SparseVLM.v1_0(9, 6) == rule
    assert SparseVLM.video() == SparseVLM(1.0, (1,), "compact", adaptive=True, scale=1.0, judged_by="prompt")
    assert not SparseVLM().data_dependent and SparseVLM.v1_0().data_dependent
    assert SparseVLM().recycled_fraction == 0.3


@pytest.mark.parametrize(
    "options",
    [
        {"recycle": 1.0},
        {"recycle": -0.1},
        {"recycle": math.nan},
        {"recycle": "0.3"},
        {"recycle": True},
        {"recycle": None},
        {"scale": "9"},
        {"scale": math.inf},
        {"bias": None},
        {"bias": math.nan},
        {"adaptive": "yes"},
        {"adaptive": 1},
    ],
    ids=str,
)
def test_bad_fields(options: dict[str, Any]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(SparseSightError, match=f"{name}={value!r}: "):
        SparseVLM(**options)


def test_recycling_nothing() -> None:
    method = SparseVLM((10, 5, 3), recycle=0.0)
    _, stage = build(method, [Sample.random(0, 2, 30, 4)])
    selection = method.select(stage)
    assert selection.merge is None and selection.counts.tokens_out == (10,)


def test_rows_are_independent_of_each_other() -> None:
    """Swapping the samples of a batch swaps the outcome."""
    samples = [Sample.random(i, 2, 30, 4 + i) for i in range(2)]
    method = SparseVLM((10, 5, 3))
    one, other = (method.select(build(method, x)[1]) for x in (samples, samples[::-1]))
    assert torch.equal(one.keep, other.keep.flip(0))
    assert one.merge is not None and other.merge is not None
    torch.testing.assert_close(one.merge.tokens, other.merge.tokens.flip(0))


def test_softcap_and_masks_reach_the_score() -> None:
    """A key that the model hides from the text gets no score."""
    sample = Sample.random(0, 2, 12, 4)
    _, stage = build(SparseVLM((5, 3, 2)), [sample])
    hidden = stage.attention.mask.clone()
    hidden[..., 2 + 7] = False
    _, masked = build(SparseVLM((5, 3, 2)), [sample], mask=hidden)
    assert SparseVLM().score(masked)[0, 7] == 0 and SparseVLM().score(stage)[0, 7] > 0
    _, capped = build(SparseVLM((5, 3, 2)), [sample], softcap=1e-3)
    seen = 1 / (2 + 12 + torch.arange(1, 5)[sample.rater])  # all logits are about equal: attention is uniform
    torch.testing.assert_close(SparseVLM().score(capped)[0], seen.mean().expand(12), rtol=1e-2, atol=0)
