"""LoRA adapters beside pruning, against transformers with the adapter merged into the weights."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from sparsesight import SparseVLMPlus, bundled
from sparsesight.vllm.adapters import Adapters

from .engines import answers, by_transformers, generated, prompt, pruner, questions, same, sampling

with_vllm = pytest.mark.vllm
METHOD = SparseVLMPlus(64)
RANK, ALPHA = 8, 16


class Map:
    """As vLLM's, as far as it is touched."""

    def __init__(self, indices: list[int]) -> None:
        self._token_lora_indices = torch.tensor([*indices, 7, 7, 7])
        self.indices_len = [len(indices), 1, 1]
        self.is_prefill = True
        self.prepared: list[list[int]] = []

    @property
    def token_lora_indices(self) -> torch.Tensor:
        return self._token_lora_indices[: self.indices_len[0]]

    def _update_prefill_metadata(self, indices: torch.Tensor) -> None:
        self.prepared.append(indices.tolist())


@pytest.mark.parametrize("gpu", [False, True])
def test_maps_follow_the_rows_and_come_back(gpu: bool) -> None:
    decoder = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1), nn.Linear(1, 1))
    mapping = Map([0, 0, -1, 1, 1])
    if gpu:
        mapping.token_mapping_meta = SimpleNamespace(prepare_tensors=mapping._update_prefill_metadata)  # type: ignore[attr-defined]
    plain = Adapters(nn.Sequential(nn.Linear(1, 1)))
    plain.keep(torch.tensor([0]))  # no layer has an adapter
    adapters = Adapters(decoder)
    for layer in decoder[:2]:
        layer.punica_wrapper = mapping  # type: ignore[assignment]
    adapters.keep(torch.tensor([0, 2, 3]))
    adapters.keep(torch.tensor([1, 2]))
    assert mapping.token_lora_indices.tolist() == [-1, 1]
    adapters.restore()
    assert mapping.token_lora_indices.tolist() == [0, 0, -1, 1, 1]
    assert mapping.prepared == [[0, -1, 1], [-1, 1], [0, 0, -1, 1, 1]]
    adapters.restore()
    assert len(mapping.prepared) == 3


def test_layers_are_gone_through_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pruning stage of a small model takes a millisecond longer otherwise."""
    decoder, looks = nn.Sequential(nn.Linear(1, 1)), []
    inner = decoder.modules
    monkeypatch.setattr(decoder, "modules", lambda: (looks.append(1), inner())[1])
    adapters = Adapters(decoder)
    for _ in range(3):
        adapters.keep(torch.tensor([0]))
        adapters.restore()
    assert len(looks) == 1


def adapter(path: Path, model: Any) -> Path:
    """A random adapter of every attention and MLP of the decoder, merged into ``model`` and written for vLLM."""
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, module in model.named_modules():
        if "language_model" in name and isinstance(module, nn.Linear) and "lm_head" not in name:
            a = torch.randn(RANK, module.in_features, generator=generator) * 0.02
            b = torch.randn(module.out_features, RANK, generator=generator) * 0.1
            module.weight.data += ALPHA / RANK * (b @ a)
            inner = name.removeprefix("model.").removeprefix("language_model.")
            weights |= {
                f"base_model.model.language_model.model.{inner}.lora_A.weight": a,
                f"base_model.model.language_model.model.{inner}.lora_B.weight": b,
            }
    path.mkdir()
    save_file(weights, path / "adapter_model.safetensors")
    targets = sorted({name.split(".")[-3] for name in weights})
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": targets, "bias": "none"}
    (path / "adapter_config.json").write_text(json.dumps(config))
    return path


class TestWithVllm:
    pytestmark = with_vllm

    def test_requests_with_and_without_an_adapter_share_a_step(self, opened: Any, tmp_path: Path) -> None:
        from vllm.lora.request import LoRARequest

        model, processor = bundled.load()
        request = LoRARequest("own", 1, str(adapter(tmp_path / "own", model)))
        asked = questions()[:4]
        prompts = [prompt(*x) for x in asked]
        own = []
        for picture, question in asked:
            text = prompt(picture, question)["prompt"]
            inputs = processor(text=text, images=picture, return_tensors="pt")
            own.append(generated(model, inputs, METHOD))
        plain = by_transformers(METHOD, asked)
        # On CPUs, vLLM gives rows without an adapter the last place for one: leave it empty.
        llm = opened(METHOD, enable_lora=True, max_lora_rank=RANK, max_loras=2)
        whose = [request, None, request, None]
        found = []
        for output in llm.generate(prompts, sampling(), lora_request=whose, use_tqdm=False):
            ids = list(output.outputs[0].token_ids)
            logprobs = output.outputs[0].logprobs
            found.append((ids, [step[t].logprob for step, t in zip(logprobs, ids, strict=True)]))
        assert pruner(llm).tally.pruned == len(prompts)
        same(found, [own[0], plain[1], own[2], plain[3]], 1e-3)
        assert own[1] != plain[1]
        same(answers(llm, prompts, sampling()), plain, 1e-3)
