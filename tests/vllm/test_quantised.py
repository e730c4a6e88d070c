"""Quantised checkpoints inside vLLM: pruned as others are, by kernels that a CPU has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sparsesight import SparseVLMPlus, bundled

from .engines import answers, every_stage, generated, prompt, pruner, questions, same, sampling
from .quantised_checkpoints import FORMATS, rounded, write

pytestmark = pytest.mark.vllm
METHOD = SparseVLMPlus(64)
OFTEN = ("AWQ",)  # each costs two engines


def kernels() -> Any:
    """Those of vLLM for this processor."""
    from vllm import _custom_ops  # noqa: F401  # loads them

    return torch.ops._C


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in OFTEN else pytest.mark.slow) for name in FORMATS]
)
def test_quantised_checkpoints(name: str, opened: Any, tmp_path: Path) -> None:
    """Everything kept is vanilla vLLM; pruned in a batch is pruned alone, and what transformers says of the numbers.

    vLLM's kernels of four bits compute in bfloat16, so the last is compared by what they say, not by how sure.
    """
    if "W8" not in name and not hasattr(kernels(), "cpu_gemm_wna16"):
        pytest.skip("vLLM has kernels of four bits for processors with AVX-512 only")
    folder = str(write(name, tmp_path / "checkpoint"))
    how = {"model": folder, "dtype": "float32" if "W8" in name else "bfloat16"}
    asked = questions()[:3]
    prompts = [prompt(*one) for one in asked]
    dense = answers(opened(None, **how), prompts, sampling())
    llm = opened(METHOD, **how)
    everything = sampling(extra_args={"sparsesight_retain": [576, 576, 576]})
    with every_stage():
        same(answers(llm, prompts, everything), dense, 1e-5)
    sparse = answers(llm, prompts, sampling())
    assert pruner(llm).tally.pruned == 2 * len(prompts) and sparse != dense
    layers = llm.llm_engine.model_executor.driver_worker.worker.model_runner.get_model().language_model.model
    assert type(layers.layers[0].mlp.down_proj.quant_method).__name__ != "UnquantizedLinearMethod"
    same([answers(llm, [one], sampling())[0] for one in prompts], sparse, 1e-3)
    model, processor = bundled.load()
    rounded(name, model)
    for (picture, question), (ids, _) in zip(asked, sparse, strict=True):
        inputs = processor(text=prompt(picture, question)["prompt"], images=picture, return_tensors="pt")
        assert ids[:2] == generated(model, inputs, METHOD)[0][:2]


def test_rounding_changes_the_numbers() -> None:
    """What a checkpoint stands for is not what it was made of."""
    exact, model = bundled.load()[0], rounded("AWQ", bundled.load()[0])
    name = "model.language_model.layers.0.mlp.down_proj.weight"
    a, b = dict(exact.named_parameters())[name], dict(model.named_parameters())[name]
    assert 0 < float((a - b).abs().max()) < float(a.abs().max()) / 7 and not torch.equal(a, b)
