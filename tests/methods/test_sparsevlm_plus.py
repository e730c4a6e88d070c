"""SparseVLM+: the rotary weight is divided out, the heads that look at the picture vote, and both have safe limits."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from sparsesight import SparseSightError, SparseVLMPlus, ops

from .stages import Sample, build, frequencies
from .test_sparsevlm import attention


def weights(sample: Sample, inv_freq: np.ndarray, d: int) -> np.ndarray:
    """[after, visual]: the rotary weight by its closed form."""
    after = np.arange(sample.before + sample.visual, sample.length)
    visual = np.arange(sample.before, sample.before + sample.visual)
    distance = after[:, None] - visual[None]
    return 2 / math.sqrt(d) * np.cos(distance[..., None] * inv_freq).sum(-1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("heads", [4, 2, 1])
def test_score_by_hand(seed: int, heads: int) -> None:
    sample = Sample.random(seed, 4, 30, 9)
    method = SparseVLMPlus((10, 5, 3), heads=heads, gravity_floor=None)
    _, stage = build(method, [sample])
    assert stage.attention.inv_freq is not None
    received = attention(sample) / weights(sample, stage.attention.inv_freq.double().numpy(), 8)
    received = received[:, sample.rater.numpy()]
    best = np.argsort(-received.sum((1, 2)), kind="stable")[:heads]
    np.testing.assert_allclose(method.score(stage)[0].numpy(), received[best].mean((0, 1)), rtol=2e-5)


def test_only_heads_that_look_at_the_picture_vote() -> None:
    """Heads 1 and 3 look at four tokens; 0 and 2 look away, and with what is left at one other.

    That one would win if all heads voted.
    """
    sample = Sample.random(0, 4, 20, 5, heads=4, groups=4)
    wanted, decoy = [2, 7, 11, 16], 9
    sample.rater[:] = True
    sample.key.zero_()
    sample.query.zero_()
    sample.query[..., 0] = math.sqrt(8)  # logits are then the keys
    for head in (1, 3):
        sample.key[head, [4 + x for x in wanted], 0] = 4.0
    for head in (0, 2):
        sample.key[head, 4 + decoy, 0], sample.key[head, 0, 0] = 6.4, 7.1
    method = SparseVLMPlus((4, 2, 1), heads=0.5)
    _, stage = build(method, [sample], inv_freq=torch.zeros(4))  # every weight alike
    received = stage.attention.received(stage.rater, stage.attention.rope_weight())
    heads, _ = ops.select_heads(received, stage.visual, method.head_count(4))
    assert heads[0].tolist() == [1, 3]
    assert method.select(stage).keep[0].nonzero()[:, 0].tolist() == wanted
    assert SparseVLMPlus((4, 2, 1), heads=1.0).score(stage).argmax() == decoy


def test_distance_is_divided_out() -> None:
    """Attention that is nothing but rotary distance becomes flat; undivided, it prefers the near tokens."""
    d, sample = 128, Sample.random(0, 4, 60, 3, heads=2, groups=2, d=128)
    sample.rater[:] = True
    angle = torch.arange(sample.length)[:, None] * frequencies(d)
    ones = torch.cat(
        (angle.cos() - angle.sin(), angle.cos() + angle.sin()), -1
    )  # the all-ones vector, rotated
    sample.query, sample.key = (ones.expand(2, -1, -1) for _ in range(2))
    _, stage = build(SparseVLMPlus((30, 20, 10)), [sample], inv_freq=frequencies(d))
    logit = stage.attention.query @ stage.attention.key.transpose(2, 3) * stage.attention.scale
    torch.testing.assert_close(logit[:, 0], stage.attention.rope_weight(), rtol=1e-4, atol=1e-3)
    flat = (logit / stage.attention.rope_weight()[:, None])[0, 0, :, 4:64]
    torch.testing.assert_close(flat, torch.ones_like(flat), rtol=1e-3, atol=1e-3)
    plain = stage.attention.received(stage.rater)[0, 0]
    assert plain[-10:].mean() > plain[:10].mean()


def test_uniform_attention_prefers_what_is_far() -> None:
    """With equal attention the weight decides: it falls with distance, so the first tokens score best."""
    sample = Sample.random(0, 0, 400, 4, heads=2, groups=1, d=128)
    sample.key.zero_()
    method = SparseVLMPlus((100, 50, 20))
    _, stage = build(method, [sample], inv_freq=frequencies(128))
    score = method.score(stage)[0]
    assert score[:50].mean() > 1.5 * score[-50:].mean()


# -- limits ------------------------------------------------------------------------------------------------------


def test_the_floor_does_not_bite_on_llava() -> None:
    """Heads of width 128, base 1e4, distances up to 700: every weight is above the floor."""
    distance = torch.arange(701)[None]
    weight = ops.rope_weight(distance[:, :1], distance, frequencies(128), 128)
    floor = SparseVLMPlus().gravity_floor
    assert floor is not None and weight.min() > floor * math.sqrt(128)


def test_the_default_is_the_published_choice_on_llava() -> None:
    """32 heads of width 128 and 576 visual tokens: the same scores, bit for bit, and the same tokens."""
    sample = Sample.random(3, 35, 576, 53, heads=32, groups=32, d=128)
    default, published = SparseVLMPlus(192), SparseVLMPlus.published(192)
    _, stage = build(default, [sample], inv_freq=frequencies(128))
    a, b = default.select(stage), published.select(stage)
    assert torch.equal(a.score, b.score) and torch.equal(a.keep, b.keep)
    assert int(a.keep.sum()) == 300


def test_the_floor_bites_where_the_weight_crosses_zero() -> None:
    """Text 2000 tokens after the picture: weights there are near zero or negative."""
    sample = Sample.random(0, 0, 60, 3, heads=2, groups=2, d=128)
    position = torch.cat((torch.arange(60), torch.arange(1755, 1758)))[None]
    where = {"inv_freq": frequencies(128), "key_position": position, "query_position": position[:, 60:]}
    bare, safe = SparseVLMPlus((9, 5, 2), gravity_floor=None), SparseVLMPlus((9, 5, 2))
    _, stage = build(safe, [sample], **where)
    weight = stage.attention.rope_weight()[:, :, :60]
    assert (weight < 0).any() and (weight > 0).any()
    assert (bare.score(stage) < 0).any()
    score = safe.score(stage)
    assert (score > 0).all()
    bound = stage.attention.received(stage.rater).amax(1) / (0.1 * math.sqrt(128))
    assert (score <= bound * (1 + 1e-5)).all()


def test_head_count() -> None:
    counts = {32: 14, 28: 12, 40: 18, 16: 7, 14: 6, 12: 5, 2: 1, 1: 1}
    assert {n: SparseVLMPlus().head_count(n) for n in counts} == counts
    assert SparseVLMPlus(heads=1.0).head_count(5) == 5
    assert SparseVLMPlus(heads=1).head_count(5) == 1
    assert SparseVLMPlus(heads=0.01).head_count(5) == 1  # never none
    assert SparseVLMPlus.published().head_count(40) == 14
    with pytest.raises(SparseSightError, match="heads=14: the model has 8 heads"):
        SparseVLMPlus.published().head_count(8)


def test_a_layer_without_rotary_positions_has_nothing_to_divide_out() -> None:
    """The weight is one: what counts is plain attention, summed over the best heads."""
    method = SparseVLMPlus((5, 3, 2))
    _, stage = build(method, [Sample.random(0, 2, 12, 4)], inv_freq=None)
    assert torch.equal(
        stage.attention.rope_weight(),
        torch.ones(1, stage.attention.query.shape[2], stage.attention.key.shape[2]),
    )
    _, still = build(
        method, [Sample.random(0, 2, 12, 4)], inv_freq=torch.zeros(stage.attention.query.shape[-1] // 2)
    )
    weight = still.attention.rope_weight()[0, 0, 0]  # frequencies of zero: the same weight everywhere
    chosen, other = method.select(stage), method.select(still)
    assert torch.equal(chosen.keep, other.keep)
    torch.testing.assert_close(chosen.score, other.score * weight)


def test_presets() -> None:
    plus = SparseVLMPlus(128, (2, 6, 15), always_drop=True, heads=14, gravity_floor=None)
    expected = replace(plus, judged_by="prompt")
    assert SparseVLMPlus.published(128) == expected
    assert SparseVLMPlus().recycled_fraction == 0


@pytest.mark.parametrize(
    "options",
    [
        {"heads": 0},
        {"heads": -2},
        {"heads": 0.0},
        {"heads": 1.5},
        {"heads": True},
        {"heads": "14"},
        {"heads": None},
        {"heads": math.nan},
        {"gravity_floor": 0},
        {"gravity_floor": 1.5},
        {"gravity_floor": -0.1},
        {"gravity_floor": "none"},
        {"gravity_floor": True},
        {"gravity_floor": math.nan},
    ],
    ids=str,
)
def test_bad_fields(options: dict[str, Any]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(SparseSightError, match=f"{name}={value!r}: "):
        SparseVLMPlus(**options)


def test_several_axes() -> None:
    """mrope positions [axes, b, n]: with the same position on all axes the scores are those of plain rotary."""
    sample = Sample.random(1, 3, 20, 6)
    method = SparseVLMPlus((9, 5, 2))
    _, plain = build(method, [sample])
    three = {k: getattr(plain.attention, k).expand(3, -1, -1) for k in ("query_position", "key_position")}
    _, same = build(method, [sample], rotary_axis=torch.tensor([0, 1, 2, 0]), **three)
    torch.testing.assert_close(method.score(same), method.score(plain))
    bumped = {**three, "key_position": three["key_position"] * torch.tensor([1, 2, 3])[:, None, None]}
    _, other = build(method, [sample], rotary_axis=torch.tensor([0, 1, 2, 0]), **bumped)
    assert not torch.allclose(method.score(other), method.score(plain))
