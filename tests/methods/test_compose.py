"""Methods in sequence, and methods as they are written."""

from __future__ import annotations

import pytest
import torch

from sparsesight import METHODS, Compose, FastV, Method, Random, SparseSightError, SparseVLM, SparseVLMPlus
from sparsesight.core.budget import BEFORE, BudgetError, StageSizes
from sparsesight.methods import from_dict, make_method, parse
from tests.methods.stages import NUM_LAYERS, Sample, build, normal

FIRST = Random(192, (BEFORE,))
BOTH = Compose(FIRST, SparseVLMPlus(64))


def test_stages_follow_one_another() -> None:
    """The second part plans with what the first one leaves."""
    assert BOTH.stage_layers(NUM_LAYERS) == (BEFORE, 2, 6, 15)
    schedule = BOTH.plan(576, NUM_LAYERS, (BEFORE, 2, 6, 15))
    assert schedule.entering[:3] == (192, 192, 192)
    assert schedule.stages[1:] == SparseVLMPlus(64).plan(192, NUM_LAYERS, (2, 6, 15)).stages
    assert schedule.equal_tokens == pytest.approx(64, abs=1)


def test_a_part_that_keeps_everything_has_stages_where_others_have() -> None:
    """The counts of a batch stand in one table, by stage."""
    layers = BOTH.stage_layers(NUM_LAYERS)
    small = BOTH.plan(100, NUM_LAYERS, layers)
    assert small.stages[0].tokens_out == 100 and small.stages[-1].tokens_out < 64
    assert BOTH.plan(30, NUM_LAYERS, layers).stages == ()
    second = Compose(FIRST, SparseVLMPlus(1.0)).plan(576, NUM_LAYERS, layers)
    assert [s.tokens_out for s in second.stages] == [192] * 4


def test_each_stage_is_its_parts_own() -> None:
    samples = [Sample.random(1, 3, 40, 5), Sample.random(2, 0, 25, 3)]
    both = Compose(Random(20, (BEFORE,), seed=3), SparseVLM((9, 4), (2, 5), recycle=0.0))
    for index, part, own in ((0, both.parts[0], 0), (2, both.parts[1], 1)):
        _, stage = build(both, samples, index=index)
        _, alone = build(part, samples, index=own)
        assert torch.equal(both.select(stage).score, part.select(alone).score)
    sizes = StageSizes(1, 20, 9, 0, 0, 5, 50, 8, 16)
    assert both.overhead(sizes) == 20 * 5 * 16 + 5 * 50 * 8  # the raters are chosen at its first stage


def test_raters_are_those_of_the_part_that_goes_by_them() -> None:
    both = Compose(FastV(300), SparseVLMPlus(200, (5, 9)))
    assert (
        both.requires_raters and not FastV.requires_raters and not Compose(FIRST, FastV(100)).requires_raters
    )
    visual, text = normal(0, 1, 8, 6), normal(1, 1, 5, 6)
    masks = torch.ones(1, 8, dtype=torch.bool), torch.ones(1, 5, dtype=torch.bool)
    assert torch.equal(
        both.select_raters(visual, text, *masks), SparseVLMPlus().select_raters(visual, text, *masks)
    )


def test_what_does_not_compose() -> None:
    for parts, says in (
        ((FIRST,), "two methods"),
        ((FIRST, BOTH), "not a single method"),
        ((FIRST, SparseVLM.v1_0()), "from the data"),
        ((FIRST, SparseVLM.published(64)), "positions"),
    ):
        with pytest.raises(SparseSightError, match=says):
            Compose(*parts)
    with pytest.raises(BudgetError, match="not ascending"):
        Compose(SparseVLMPlus(64), FIRST).stage_layers(NUM_LAYERS)


def test_another_budget_goes_to_the_last_part() -> None:
    assert BOTH.with_budget(32, 576, NUM_LAYERS) == Compose(FIRST, SparseVLMPlus(32))
    with pytest.raises(BudgetError, match="tokens"):
        BOTH.with_budget(0.1, 576, NUM_LAYERS)


@pytest.mark.parametrize(
    "method",
    [
        *(make_method(name) for name in METHODS),
        BOTH,
        SparseVLM.published(64),
        SparseVLMPlus((300, 200, 110), (2, 6, 15), heads=0.5, gravity_floor=None),
        Random(0.25, seed=4),
    ],
    ids=str,
)
def test_written_and_read(method: Method) -> None:
    assert parse(str(method)) == method
    assert from_dict(method.to_dict()) == method
    assert hash(parse(str(method))) == hash(method)


def test_equal_and_different_compositions() -> None:
    assert Compose(FIRST, SparseVLMPlus(32)) != BOTH
    assert parse("random(retain=192, layers=(-1,)) > sparsevlm+") == BOTH


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nothing", "unknown"),
        ("random(64)", "name=value"),
        ("random(retain=", "write a name"),
        ("random(retain=len)", "name=value"),
        ("random(**{})", "name=value"),
        ("random >", "write a name"),
        ("random(seeds=3)", "no option"),
    ],
)
def test_unreadable(text: str, says: str) -> None:
    with pytest.raises(SparseSightError, match=says):
        parse(text)
