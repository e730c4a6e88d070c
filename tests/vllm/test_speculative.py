"""Speculative decoding by n-grams beside pruning: the same answers, and drafts that are accepted."""

from __future__ import annotations

from typing import Any

import pytest

from sparsesight import SparseVLM, SparseVLMPlus
from sparsesight.methods import Method

from .engines import answers, by_transformers, prompt, pruner, questions, same, sampling

pytestmark = pytest.mark.vllm

NGRAM = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 2, "prompt_lookup_min": 1}
TOKENS = 24  # forced answers repeat themselves


@pytest.mark.parametrize(
    "method", [SparseVLMPlus(64), pytest.param(SparseVLM(64), marks=pytest.mark.slow)], ids=str
)
def test_drafts_change_no_answer(opened: Any, method: Method) -> None:
    asked = questions()[:2]
    prompts, plain = [prompt(*x) for x in asked], by_transformers(method, asked, TOKENS)
    llm = opened(method, speculative_config=NGRAM, disable_log_stats=False)
    same(answers(llm, prompts, sampling(TOKENS)), plain, 1e-3)
    assert pruner(llm).tally.pruned == len(prompts)
    for one, alone in zip(prompts[:2], plain, strict=False):
        same(answers(llm, [one], sampling(TOKENS)), [alone], 1e-3)
    accepted = [x.value for x in llm.get_metrics() if x.name == "vllm:spec_decode_num_accepted_tokens"]
    assert sum(accepted) > 0
