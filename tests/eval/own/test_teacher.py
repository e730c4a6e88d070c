"""One forward over prompt and answer, in families with other positions, masks and towers than LLaVA's."""

from __future__ import annotations

import pytest
import torch

from sparsesight.eval.own.teacher import TOP, DenseAnswer, forced, forced_logits
from sparsesight.hf.model_parts import inspect_model
from tests.hf.families import ALL
from tests.hf.families.case import Case

BY_NAME = {family.name: (i, family) for i, family in enumerate(ALL)}


@pytest.mark.parametrize("name", ["llava_next", "qwen2_vl", "qwen2_5_vl", "gemma3", "idefics3", "internvl"])
def test_logits_are_those_of_generation(name: str) -> None:
    number, family = BY_NAME[name]
    case = Case(family, number)
    prompt, model = case.prompt(1, 3), case.models["sdpa"]
    with case.sparse("sdpa", "sparsevlm+"):
        tokens, logits = case.generate("sdpa", case.prompt(1, 3))
        answers = [tokens[0], tokens[1, :1]]  # of different lengths
        found = forced_logits(inspect_model(model), prompt, answers)
    assert [x.shape for x in found] == [logits[0].shape, logits[1, :1].shape]
    for one, other, n in zip(found, logits, (2, 1), strict=True):
        assert torch.allclose(one, other[:n], atol=family.tolerance)


def test_outcomes_beyond_the_top_count_as_one() -> None:
    """Of a large vocabulary, the divergence is at most the whole one, and close to it."""
    torch.manual_seed(0)
    dense = 4 * torch.randn(2, 5 * TOP)
    other = dense + 0.1 * torch.randn_like(dense)
    tokens = dense.argmax(-1)
    answer = DenseAnswer.of(tokens, dense, "")
    assert len(answer.first) == TOP
    found = forced(answer, other)
    a, b = dense[0].double().log_softmax(0), other[0].double().log_softmax(0)
    whole = float((a.exp() * (a - b)).sum())
    assert 0.5 * whole < found.kl <= whole + 1e-6
    assert forced(answer, dense) == type(found)(True, 0.0, 1, pytest.approx(0, abs=1e-6))
