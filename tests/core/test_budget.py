"""Schedules: published ones to the last digit, solved ones within one token, errors that say what is possible."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sparsesight import BudgetError, Method, SparseVLM, SparseVLMPlus
from sparsesight.core.budget import (
    Retain,
    Schedule,
    Stage,
    as_published,
    plan,
    recycled_counts,
)
from sparsesight.macs import DecoderShape

LLAMA_7B = DecoderShape.llama(32, 4096, 11008, 32)
BEFORE, VISUAL, AFTER = 35, 576, 53
LAYERS = (2, 6, 15)

# The table of the reference: visual tokens after each stage, equal tokens, TFLOPs.
PUBLISHED = [
    (SparseVLM, 192, (309, 204, 113), 192.03, 1.935),
    (SparseVLM, 128, (312, 117, 39), 128.62, 1.533),
    (SparseVLM, 96, (249, 55, 27), 96.94, 1.327),
    (SparseVLM, 64, (82, 32, 18), 64.81, 1.117),
    (SparseVLMPlus, 192, (300, 200, 118), 192.44, 1.936),
    (SparseVLMPlus, 128, (238, 108, 60), 128.00, 1.523),
    (SparseVLMPlus, 96, (246, 54, 28), 96.81, 1.325),
    (SparseVLMPlus, 64, (66, 34, 20), 64.44, 1.114),
]


# -- published ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", [False, True])
@pytest.mark.parametrize(("kind", "retain", "out", "equal", "tflops"), PUBLISHED)
def test_published_schedules(
    kind: Any, retain: int, out: tuple[int, ...], equal: float, tflops: float, preset: bool
) -> None:
    method: Method = kind.published(retain) if preset else kind(retain)
    layers = method.stage_layers(32)
    assert layers == LAYERS
    schedule = method.plan(VISUAL, 32, layers)
    assert tuple(s.tokens_out for s in schedule.stages) == out
    assert tuple(s.keep for s in schedule.stages) == kind.published_budgets[retain]
    assert round(schedule.equal_tokens, 2) == equal
    entering = [BEFORE + n + AFTER for n in schedule.entering]
    assert round(LLAMA_7B.prefill_macs(entering) * 1e-12, 3) == tflops


def test_dense_macs_are_the_published_ones() -> None:
    assert round(LLAMA_7B.prefill_macs([BEFORE + VISUAL + AFTER] * 32) * 1e-12, 3) == 4.416


def test_the_two_conventions_differ_as_published() -> None:
    schedule = SparseVLM(192).plan(VISUAL, 32, LAYERS)
    assert round(schedule.equal_tokens, 2) == 192.03
    assert round(schedule.equal_tokens_entering, 1) == 206.5


@pytest.mark.parametrize("retain", [192, 1 / 3])
def test_a_ratio_meets_the_published_schedule_too(retain: Retain) -> None:
    schedule = SparseVLMPlus(retain).plan(VISUAL, 32, LAYERS)
    assert tuple(s.keep for s in schedule.stages) == (300, 200, 118)


def test_published_counts_are_used_only_where_they_meet_the_request() -> None:
    """Without recycling v1.5's counts average 188 tokens; another picture, depth or layer has no published counts."""
    without = SparseVLM(192, recycle=0.0).plan(VISUAL, 32, LAYERS)
    assert abs(without.equal_tokens - 192) <= 1
    for visual, num_layers, layers in ((575, 32, LAYERS), (576, 40, LAYERS), (576, 32, (2, 6, 16))):
        schedule = SparseVLMPlus(192).plan(visual, num_layers, layers)
        assert tuple(s.keep for s in schedule.stages) != (300, 200, 118)
        assert abs(schedule.equal_tokens - 192) <= 1


# -- by hand -----------------------------------------------------------------------------------------------------


def test_conventions_by_hand() -> None:
    schedule = plan((6, 2), 10, 6, (1, 3))
    assert schedule.entering == (10, 10, 6, 6, 2, 2)
    assert schedule.equal_tokens_entering == 36 / 6
    assert schedule.equal_tokens == (10 + 6 + 6 + 2 + 2 + 2) / 6  # each layer by what leaves it


def test_merged_tokens_count() -> None:
    """40 dropped: int(12.0) + 1 = 13 of them become int(1.3) + 1 = 2; then 22 dropped: 7 become 1."""
    schedule = plan((60, 40), 100, 4, (0, 1), recycle=0.3)
    assert schedule.stages == (Stage(0, 100, 60, 13, 2), Stage(1, 62, 40, 7, 1))
    assert schedule.entering == (100, 62, 41, 41)
    assert schedule.equal_tokens == (62 + 41 + 41 + 41) / 4


def test_recycled_counts() -> None:
    for dropped in range(1, 600):
        recycled, merged = recycled_counts(dropped, 0.3)
        assert (recycled, merged) == (int(dropped * 0.3) + 1, int((int(dropped * 0.3) + 1) / 10) + 1)
        assert 1 <= merged <= recycled <= dropped
        assert recycled_counts(dropped, 0.0) == (0, 0)
        assert recycled_counts(dropped, 0.999)[0] <= dropped
    assert recycled_counts(0, 0.3) == (0, 0)


def test_the_published_clamp() -> None:
    """`always_drop`: every stage drops one at least; recycling then gives one back, and without it zero is reached."""
    assert [s.keep for s in plan((9, 9, 9), 2, 8, (1, 3, 5), always_drop=True).stages] == [1, 0, 0]
    merging = plan((9, 9), 5, 8, (1, 3), recycle=0.3, always_drop=True)
    assert [(s.keep, s.recycled, s.merged, s.tokens_out) for s in merging.stages] == [(4, 1, 1, 5)] * 2
    assert [s.keep for s in plan((9, 9), 5, 8, (1, 3)).stages] == [5, 5]


# -- solved ------------------------------------------------------------------------------------------------------


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    num_layers = draw(st.integers(2, 48))
    layers = draw(st.sets(st.integers(0, num_layers - 2), min_size=1, max_size=4))
    visual = draw(st.sampled_from([1, 2, 5, 64, 576, 2880]) | st.integers(1, 4000))
    return {
        "retain": draw(st.integers(1, visual) | st.floats(1e-3, 1.0)),
        "visual": visual,
        "num_layers": num_layers,
        "layers": tuple(sorted(layers)),
        "recycle": draw(st.sampled_from([0.0, 0.3, 0.9]) | st.floats(0, 0.99)),
        "always_drop": draw(st.booleans()),
    }


@settings(max_examples=300, deadline=None, derandomize=True)
@given(requests())
def test_solved_schedules_meet_the_request(request: dict[str, Any]) -> None:
    retain, visual, num_layers, layers = (request[k] for k in ("retain", "visual", "num_layers", "layers"))
    try:
        schedule = plan(**request)
    except BudgetError:
        assume(False)
    target = retain if isinstance(retain, int) else retain * visual
    if target >= visual and not request["always_drop"]:
        assert schedule == Schedule(visual, num_layers, ())
        return
    most = plan(**{**request, "retain": (visual,) * len(layers)}).equal_tokens
    assert abs(schedule.equal_tokens - min(target, most)) <= 1
    assert [s.layer for s in schedule.stages] == list(layers)
    tokens = visual
    for stage in schedule.stages:
        assert stage.tokens_in == tokens
        assert 0 <= stage.keep <= max(tokens - request["always_drop"], 0)
        assert (stage.recycled, stage.merged) == recycled_counts(tokens - stage.keep, request["recycle"])
        tokens = stage.tokens_out
        assert tokens <= stage.tokens_in
        assert stage.keep >= 1 or request["always_drop"]  # the clamp may reach zero, as published
    if not request["recycle"]:
        keeps = [s.keep for s in schedule.stages]
        assert keeps == sorted(keeps, reverse=True)
    assert list(schedule.entering) == sorted(schedule.entering, reverse=True)
    assert schedule.equal_tokens <= schedule.equal_tokens_entering


@pytest.mark.parametrize(
    ("retain", "visual", "num_layers", "layers"),
    [(344, 576, 49, (10, 11)), (283, 1000, 20, (2,)), (36, 576, 19, (0, 3)), (1737, 2880, 5, (1,))],
)
def test_rounding_is_made_good(retain: int, visual: int, num_layers: int, layers: tuple[int, ...]) -> None:
    """One number cannot meet these: with recycling the curve jumps past them."""
    schedule = plan(retain, visual, num_layers, layers, recycle=0.3)
    assert abs(schedule.equal_tokens - retain) <= 1


@settings(max_examples=150, deadline=None, derandomize=True)
@given(requests())
def test_the_stated_range_is_the_possible_one(request: dict[str, Any]) -> None:
    """Its ends work, and one token or a thousandth below the lower end does not."""
    request = {**request, "retain": 1}
    try:
        plan(**request)
    except BudgetError as error:
        found = re.search(r"possible are (\d+) to (\d+) \(ratios (\d\.\d+) to 1\.0\)", str(error))
        assert found, error
        low, high, ratio = int(found[1]), int(found[2]), float(found[3])
        assert 1 < low <= high == request["visual"]
        for retain in (low, high, ratio, 1.0):
            plan(**{**request, "retain": retain})
        for retain in (low - 1, ratio - 0.001):
            if retain > 0:
                with pytest.raises(BudgetError, match=re.escape(f"retain={retain!r} ")):
                    plan(**{**request, "retain": retain})


@pytest.mark.parametrize("retain", [1.0, 576, 577, 100_000])
def test_keeping_everything_has_no_stages(retain: Retain) -> None:
    schedule = plan(retain, 576, 32, LAYERS, recycle=0.3)
    assert schedule.stages == () and schedule.entering == (576,) * 32 and schedule.equal_tokens == 576


def test_one_token_is_not_every_token() -> None:
    """1 and 1.0 are equal to Python, and must not share a remembered answer."""
    for first, second in ((1, 1.0), (1.0, 1)):
        plan.cache_clear()
        for retain in (first, second):
            assert plan(retain, 50, 10, (0,)).equal_tokens == (1 if isinstance(retain, int) else 50)


def test_no_visual_tokens() -> None:
    assert plan(64, 0, 32, LAYERS).stages == plan(0.5, 0, 32, LAYERS).stages == ()
    assert [s.tokens_out for s in plan((9, 3), 0, 8, (1, 2), recycle=0.3, always_drop=True).stages] == [0, 0]


def test_numpy_numbers_are_numbers() -> None:
    assert plan(np.int64(64), 576, 32, LAYERS) == plan(64, 576, 32, LAYERS)
    assert plan(np.float64(0.25), 576, 32, LAYERS) == plan(0.25, 576, 32, LAYERS)
    counts: Any = (np.int64(300), np.int32(200), 118)
    layers: Any = tuple(np.array(LAYERS))
    assert plan(counts, 576, 32, layers) == plan((300, 200, 118), 576, 32, LAYERS)


def test_as_published_can_be_hashed() -> None:
    assert hash(as_published(SparseVLM.published_budgets)) == hash(
        as_published(dict(SparseVLM.published_budgets))
    )
    assert as_published({4: (2, 1)}) == ((4, (2, 1)),)
