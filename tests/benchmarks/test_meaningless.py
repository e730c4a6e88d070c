"""Similarities to the question that mean nothing."""

from __future__ import annotations

import pytest
import torch

from benchmarks.meaningless import meaningless
from sparsesight.methods import CDPruner, DivPrune, Halves
from tests.methods.kept_tokens import kept
from tests.methods.stages import Sample, build

KINDS = pytest.mark.parametrize("kind", ["noise", "direction"])


@KINDS
def test_it_depends_on_the_text_and_not_on_the_batch(kind: str) -> None:
    samples = [Sample.random(seed, 2, 40, 5) for seed in (1, 2)]
    with meaningless(kind):
        _, both = build(Halves(8), samples)
        drawn = both.question_similarity
        assert both.question_similarity is drawn and not torch.equal(*drawn)
        for i, sample in enumerate(samples):
            _, alone = build(Halves(8), [sample])
            assert torch.equal(alone.question_similarity[0], drawn[i])


def test_equal_tokens_are_equally_like_a_direction() -> None:
    sample = Sample.random(4, 2, 40, 5)
    sample.hidden[12:20] = sample.hidden[12]
    with meaningless("direction"):
        _, stage = build(Halves(8), [sample])
        assert len(stage.question_similarity[0, 10:18].unique()) == 1
        assert len(stage.question_similarity[0].unique()) == 33


@KINDS
def test_only_methods_that_ask_keep_other_tokens(kind: str) -> None:
    sample = Sample.random(3, 2, 40, 5)
    methods = [Halves(8), CDPruner(8), Halves(8, asked=0), DivPrune(8)]
    before = [kept(method, sample) for method in methods]
    with meaningless(kind):
        during = [kept(method, sample) for method in methods]
    assert [a != b for a, b in zip(before, during, strict=True)] == [True, True, False, False]
    assert [kept(method, sample) for method in methods] == before
