"""Random models of a shape: that they have it, and what is no shape."""

from __future__ import annotations

import pytest
import torch

from sparsesight import SparseSightError, sparsify
from sparsesight.bench.work import run_once
from sparsesight.hf.decoder_shape import decoder_shape
from sparsesight.hf.model_parts import inspect_model
from sparsesight.macs import DecoderShape
from sparsesight.random_models import Shape, random_llava


@pytest.mark.parametrize("visual", [36, 50, 2880])
def test_random_llava_has_the_asked_shape(visual: int) -> None:
    shape = Shape.parse(f"layers=3,hidden=128,ffn=64,visual={visual},text=20,heads=4,kv_heads=2")
    model, prompt = random_llava(shape, torch.float32, "cpu")
    expected = DecoderShape.llama(3, 128, 64, 4, 2, kv_bytes=4)
    assert decoder_shape(inspect_model(model)) == expected
    assert prompt["input_ids"].shape == (1, visual + 20) and int((prompt["input_ids"] == 999).sum()) == visual
    with sparsify(model, retain=0.5, layers=(0,)) as run:
        run_once(model, prompt, 2)
    assert run.report.samples[0].visual_tokens == visual


@pytest.mark.parametrize(
    "text",
    [
        "layers",
        "layers=",
        "layers=x",
        "layers=0",
        "depth=3",
        "hidden=65",
        "heads=3",
        "layers=1",
        "hidden=64,heads=64",
    ],
)
def test_bad_shapes(text: str) -> None:
    with pytest.raises(SparseSightError, match="shape"):
        Shape.parse(text)
