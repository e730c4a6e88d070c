"""Equal cost: what methods cost is what their runs report, and budgets of equal cost cost the same."""

from __future__ import annotations

import pytest

from sparsesight import METHODS, BudgetError, Random, SparseSightError, SparseVLM, SparseVLMPlus, sparsify
from sparsesight.core.budget import BEFORE
from sparsesight.equal_cost import REFERENCE, Cost, PromptSizes, cost, fit
from sparsesight.hf.decoder_shape import decoder_shape
from sparsesight.hf.model_parts import inspect_model
from sparsesight.macs import DecoderShape
from sparsesight.methods import make_method
from tests.hf import tiny

LLAVA = DecoderShape.llama(32, 4096, 11008, 32)
PROMPT = PromptSizes(576, 60, 35)


def test_dense_by_hand() -> None:
    shape = DecoderShape.llama(2, 8, 12, 2)
    n = 10 + 3 + 4
    linear = 4 * 64 + 3 * 8 * 12
    dense = cost(None, shape, PromptSizes(10, 3, 4))
    assert dense == Cost(2 * (n * linear + 2 * n * n * 8), 0, 10, 10, 2 * 2 * 2 * 8 * n)


@pytest.mark.parametrize("name", METHODS)
def test_as_reported_by_a_run(name: str) -> None:
    """For every method whose counts follow from sizes: FLOPs, both equal tokens, and KV bytes."""
    built = tiny.model("llava", "sdpa")
    prompt = tiny.inputs(tiny.processor("llava"), tiny.SAMPLES[:1])
    method = make_method(name, retain=0.5)
    with sparsify(built, method) as run:
        built(**prompt)
    sample = run.report.samples[0]
    parts = inspect_model(built)
    visual = (prompt["input_ids"][0] == parts.visual_ids[0]).nonzero()[:, 0]
    text = prompt["input_ids"].shape[1] - 1 - int(visual[-1])
    sizes = PromptSizes(sample.visual_tokens, text, sample.text_tokens - text)
    shape = decoder_shape(parts)
    got = cost(method, shape, sizes, parts.prunable)
    assert (got.macs, got.overhead) == (sample.macs_sparse, sample.macs_scoring)
    assert (got.equal_tokens, got.equal_tokens_entering) == (
        sample.equal_tokens,
        sample.equal_tokens_entering,
    )
    assert got.kv_bytes == run.report.kv_bytes_sparse
    assert cost(None, shape, sizes).macs == sample.macs_dense


@pytest.mark.parametrize("retain", [288, 192, 128, 64, 32, 0.5, 0.1])
@pytest.mark.parametrize("name", METHODS)
def test_fitted_methods_cost_the_same(name: str, retain: int | float) -> None:
    """To within a token of every layer that a method can save at, at depth 32."""
    try:
        found = fit(make_method(name), retain, LLAVA, PROMPT)
    except BudgetError:
        # The reference itself is out of reach: it prunes after layer 2 first.
        assert retain in (32, 0.1) and REFERENCE.depths[0] == 2
        return
    assert found.target == cost(REFERENCE.with_budget(retain, 576, 32), LLAVA, PROMPT).macs
    a_token = cost(None, LLAVA, PROMPT).macs / (576 + 95)
    nearest_grid = 12 if name == "pooling" else 1.5
    assert abs(found.cost.macs - found.target) < nearest_grid * a_token, found
    assert type(found.method.retain) is type(retain)


def test_the_reference_is_itself() -> None:
    """At the published budgets its published schedule is what a budget may cost."""
    for retain in (192, 128, 64):
        found = fit(SparseVLMPlus(), retain, LLAVA, PROMPT)
        assert found.method == SparseVLMPlus(retain) and found.deviation == 0


def test_pruning_before_the_first_layer_leaves_more_tokens() -> None:
    """Whoever spends nothing on dense layers may keep more in all others."""
    early = fit(Random(layers=(BEFORE,)), 192, LLAVA, PROMPT)
    late = fit(Random(layers=(20,)), 192, LLAVA, PROMPT)
    assert isinstance(early.method.retain, int) and early.method.retain > 200
    assert early.cost.equal_tokens_entering == pytest.approx(208, abs=4)
    assert late.deviation > 0.5, "twenty dense layers cannot cost so little"


def test_no_budget() -> None:
    with pytest.raises(BudgetError, match="number of tokens or a ratio"):
        fit(SparseVLMPlus(), (300, 200, 110), LLAVA, PROMPT)  # type: ignore[arg-type]
    with pytest.raises(SparseSightError, match="from the data"):
        cost(SparseVLM.v1_0(), LLAVA, PROMPT)


@pytest.mark.parametrize("retain", [192, 128, 96, 64])
def test_published_schedules_are_kept_where_they_cost_the_same(retain: int) -> None:
    """The search alone would find 127 for 128, with other counts."""
    found = fit(SparseVLM(), retain, LLAVA, PROMPT)
    assert found.method == SparseVLM(retain) and abs(found.deviation) < 0.01
    keeps = tuple(stage.keep for stage in found.method.plan(576, 32, (2, 6, 15)).stages)
    assert keeps == SparseVLM.published_budgets[retain]


def test_published_schedules_give_way_to_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """With less tolerance the nearest budget is taken instead."""
    monkeypatch.setattr("sparsesight.equal_cost.EQUAL", 0.001)
    found = fit.__wrapped__(SparseVLM(), 128, LLAVA, PROMPT)
    assert found.method != SparseVLM(128) and abs(found.deviation) < 0.006
    published = cost(SparseVLM(128), LLAVA, PROMPT).macs / found.target - 1
    assert abs(published) > abs(found.deviation)


def test_counts_from_data_have_no_budget_of_equal_cost() -> None:
    with pytest.raises(SparseSightError) as caught:
        fit(SparseVLM.v1_0(), 64, LLAVA, PROMPT)
    assert "retain=1.0," not in str(caught.value).replace(str(SparseVLM.v1_0()), "")
