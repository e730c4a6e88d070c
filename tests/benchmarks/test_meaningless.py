"""Noise in place of similarities to the question."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from benchmarks.meaningless import noise
from sparsesight.methods import CDPruner, DivPrune, Halves
from tests.methods.kept_tokens import kept
from tests.methods.stages import Sample, build


@pytest.fixture
def noisy() -> Iterator[None]:
    with noise():
        yield


@pytest.mark.usefixtures("noisy")
def test_noise_depends_on_the_text_and_not_on_the_batch() -> None:
    samples = [Sample.random(seed, 2, 40, 5) for seed in (1, 2)]
    _, both = build(Halves(8), samples)
    drawn = both.question_similarity
    assert both.question_similarity is drawn and not torch.equal(*drawn)
    for i, sample in enumerate(samples):
        _, alone = build(Halves(8), [sample])
        assert torch.equal(alone.question_similarity[0], drawn[i])


def test_only_methods_that_ask_keep_other_tokens() -> None:
    sample = Sample.random(3, 2, 40, 5)
    methods = [Halves(8), CDPruner(8), Halves(8, asked=0), DivPrune(8)]
    before = [kept(method, sample) for method in methods]
    with noise():
        during = [kept(method, sample) for method in methods]
    assert [a != b for a, b in zip(before, during, strict=True)] == [True, True, False, False]
    assert [kept(method, sample) for method in methods] == before
