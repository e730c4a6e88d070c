"""The class before vLLM's models, with a stand-in for one of them."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from sparsesight.vllm import model as models
from sparsesight.vllm.families import MODELS


class Inner(nn.Module):
    """What a vLLM model has, as far as it is touched."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__()
        self.vision_tower = nn.Module()
        if vllm_config.nested:
            self.vision_tower.vision_model = nn.Module()

    def embed_input_ids(self, input_ids: Any, embeddings: Any = None, *, is_multimodal: Any = None) -> Any:
        return input_ids, embeddings, is_multimodal

    def load_weights(self, weights: Any) -> set[str]:
        return {name for name, _ in weights}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setitem(MODELS, "StandIn", ("stand_in", "Inner"))
    monkeypatch.setitem(sys.modules, "vllm.model_executor.models.stand_in", SimpleNamespace(Inner=Inner))
    return models.StandIn


def test_a_class_is_made_once_and_by_name(made: Any) -> None:
    assert made is models.StandIn and made.__name__ == "StandIn"
    assert issubclass(made, Inner) and issubclass(made, models.Sparse)
    with pytest.raises(AttributeError, match="Unknown"):
        _ = models.Unknown


def test_without_an_entry_nothing_differs(made: Any) -> None:
    model = made(vllm_config=SimpleNamespace(additional_config={}, nested=False))
    assert model.pruner is None
    assert model.embed_input_ids(1, 2, is_multimodal=3) == (1, 2, 3)


def test_what_is_pruned_and_how_is_said_once_at_load(
    made: Any, said: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparsesight.vllm import runner
    from sparsesight.vllm.planner import Planner

    from .made_decoder import Decoder

    def init(self: Any, *, vllm_config: Any, prefix: str = "") -> None:
        nn.Module.__init__(self)
        self.language_model = SimpleNamespace(model=Decoder())

    monkeypatch.setattr(Inner, "__init__", init)
    monkeypatch.setattr(models, "check", lambda config, method: (0,))
    monkeypatch.setattr(models, "planner_of", lambda config, method: Planner(method, (0,), 3))
    monkeypatch.setattr(runner, "install", lambda model, config: None)
    monkeypatch.setattr(runner.Backends, "give", lambda self, attention, stage: None)
    entry = {"sparsesight": {"method": "fastv", "retain": 0.5}}
    requests = SimpleNamespace(max_num_seqs=4)
    made(vllm_config=SimpleNamespace(additional_config=entry, scheduler_config=requests))
    assert said.messages == ["sparsesight prunes visual tokens by fastv: retain=0.5 after layers (0,) of 3"]


def test_a_step_is_noted(made: Any) -> None:
    model = made(vllm_config=SimpleNamespace(additional_config={}, nested=False))
    noted: list[Any] = []
    model.pruner = SimpleNamespace(note=lambda: noted.append(1))
    model.embed_input_ids(1, 2, is_multimodal=torch.tensor([True, False]))
    assert noted == [1]


@pytest.mark.parametrize("nested", [True, False])
def test_weights_of_a_tower_are_found_by_both_names(made: Any, nested: bool) -> None:
    model = made(vllm_config=SimpleNamespace(additional_config={}, nested=nested))
    names = [
        "vision_tower.encoder.a",
        "model.vision_tower.vision_model.b",
        "model.vision_tower.c",
        "lm_head.d",
    ]
    found = model.load_weights((name, torch.zeros(1)) for name in names)
    inserted = {
        "vision_tower.vision_model.encoder.a",
        "model.vision_tower.vision_model.b",
        "model.vision_tower.vision_model.c",
        "lm_head.d",
    }
    assert found == (inserted if nested else set(names))
