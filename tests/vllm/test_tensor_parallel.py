"""Two tensor-parallel ranks, in processes of their own, against one."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.vllm

from sparsesight import SCOPE, FastV, SparseVLMPlus  # noqa: E402
from sparsesight.methods import Method  # noqa: E402

from .engines import answers, prompt, pruner, questions, same, sampling  # noqa: E402

TWO = {"tensor_parallel_size": 2, "distributed_executor_backend": "mp"}


def pruned(worker: Any) -> tuple[int, int, list[list[int]]]:
    """Of a rank: its heads, the prompts it has pruned, and the visual tokens that its last stage kept of each."""
    found = worker.model_runner.get_model().pruner
    heads = found.decoder.layers[0].self_attn.attn.num_heads
    last = [sample[-1].kept for prefill in found.trace for sample in prefill.samples()]
    return heads, found.tally.pruned, sorted(kept.nonzero()[0].tolist() for kept in last)


def keep_trace(worker: Any) -> None:
    worker.model_runner.get_model().pruner.keep_trace = True


@pytest.mark.parametrize(
    "method",
    # Both add up scores of the ranks' heads; the first also chooses among all heads.
    [
        SparseVLMPlus(64),
        pytest.param(FastV(0.25), marks=pytest.mark.slow),
        pytest.param(SCOPE(64), marks=pytest.mark.slow),  # the tower's heads are divided as well
    ],
    ids=str,
)
def test_two_ranks_answer_as_one(opened: Any, method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_WORKER_MULTIPROCESSING_METHOD", "fork")
    monkeypatch.setenv("VLLM_ALLOW_INSECURE_SERIALIZATION", "1")  # to ask the ranks by a function of ours
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    prompts = [prompt(*x) for x in questions()[:3]]
    llm = opened(method)
    pruner(llm).keep_trace = True
    one = answers(llm, prompts, sampling())
    (heads, count, kept) = llm.collective_rpc(pruned)[0]
    entry = {**method.to_dict(), "compare_ranks": True}
    llm = opened(method, **TWO, additional_config={"sparsesight": entry})
    llm.collective_rpc(keep_trace)
    two = answers(llm, prompts, sampling())
    ranks = llm.collective_rpc(pruned)
    assert count == len(prompts) and ranks == [(heads // 2, count, kept)] * 2
    same(two, one, 1e-3)
