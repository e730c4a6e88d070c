"""The machine that stands beside numbers."""

from __future__ import annotations

import pytest
import torch

from sparsesight.bench import environment


def test_a_gpu_comes_with_its_name_and_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"the GPU {device}")
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    found = environment("cuda:1", torch.float16)
    assert (found["device"], found["cuda"], found["dtype"]) == ("the GPU cuda:1", "12.8", "float16")


def test_a_processor_has_no_cuda() -> None:
    found = environment("cpu", torch.float32)
    assert found["device"] and "cuda" not in found
