"""Methods at one budget cost the same, whatever they keep; what cannot be is refused."""

from __future__ import annotations

import pytest
import torch

from sparsesight import BudgetError, SparseSightError
from sparsesight.bench.cases import first_prompt, make_cases
from sparsesight.equal_cost import REFERENCE, PromptSizes, cost
from sparsesight.hf.decoder_shape import decoder_shape
from sparsesight.hf.model_parts import inspect_model
from sparsesight.macs import DecoderShape
from sparsesight.methods import SparseVLM, parse
from sparsesight.random_models import Shape, random_llava
from tests.bench.small import SMALL

VICUNA = DecoderShape.llama(32, 4096, 11008, 32)
PROMPT = PromptSizes(576, 60, 35)


def test_one_budget_is_one_cost() -> None:
    names = ("sparsevlm+", "sparsevlm", "random(layers=(2,))", "random(layers=(-1,))")
    cases = make_cases({name: parse(name) for name in names}, [192, 0.25], VICUNA, PROMPT)
    assert [(x.name, x.retain) for x in cases] == [(name, retain) for name in names for retain in (192, 0.25)]
    for case in cases:
        tokens = case.retain if case.retain == 192 else 144
        target = cost(REFERENCE.with_budget(tokens, 576, 32), VICUNA, PROMPT).macs
        found = cost(case.method, VICUNA, PROMPT).macs
        assert abs(found / target - 1) < 0.01
        assert case.deviation == pytest.approx(found / target - 1, abs=0.002)
    # Before the first layer the same cost buys more tokens in every layer than after the third.
    kept = [x.method.plan(576, 32, x.method.stage_layers(32)).stages[-1].keep for x in cases]
    assert kept[6] > kept[4]


def test_the_same_tokens_cost_what_they_cost() -> None:
    """VisionZip's 64 tokens, the same in every layer, are cheaper than an average of 64 that begins with 576."""
    methods = {name: parse(name) for name in ("sparsevlm+", "visionzip")}
    own, other = make_cases(methods, [64], VICUNA, PROMPT, same_retain=True)
    assert own.method.retain == other.method.retain == 64
    assert own.deviation == 0
    saved = 1 - cost(other.method, VICUNA, PROMPT).macs / cost(own.method, VICUNA, PROMPT).macs
    assert other.deviation == pytest.approx(-saved) and saved > 0.1


def test_a_budget_that_the_reference_cannot_meet() -> None:
    """Methods that prune earlier can, and are compared with the first of them."""
    clip = PromptSizes(2880, 60, 35)
    methods = {name: parse(name) for name in ("sparsevlm+(layers=(0,4,11))", "random(layers=(0,))")}
    with pytest.raises(BudgetError, match=r"possible are .* That is the reference.*--same-retain"):
        make_cases(methods, [40], VICUNA, clip)
    own, other = make_cases(methods, [40], VICUNA, clip, same_retain=True)
    assert own.method.retain == other.method.retain == 40 and own.deviation == 0
    costs = [cost(case.method, VICUNA, clip).macs for case in (own, other)]
    assert other.deviation == pytest.approx(costs[1] / costs[0] - 1) and other.deviation != 0


def test_a_budget_that_leaves_nothing_to_prune() -> None:
    with pytest.raises(SparseSightError, match="keeps all 576 visual tokens"):
        make_cases({"random": parse("random")}, [600], VICUNA, PROMPT)
    with pytest.raises(BudgetError, match="possible are"):
        make_cases({"random": parse("random")}, [1], VICUNA, PROMPT)
    with pytest.raises(SparseSightError, match="from the data"):
        make_cases({"v1.0": SparseVLM.v1_0()}, [64], VICUNA, PROMPT)


@pytest.mark.parametrize("text", [12, 100])
def test_sizes_of_a_prompt(text: int) -> None:
    shape = Shape.parse(SMALL.replace("text=12", f"text={text}"))
    model, prompt = random_llava(shape, torch.float32, "cpu")
    assert first_prompt(model, prompt) == shape.prompt
    assert decoder_shape(inspect_model(model)) == shape.decoder
    with pytest.raises(SparseSightError, match="no visual tokens"):
        first_prompt(model, {"input_ids": torch.ones(1, 4, dtype=torch.long)})
