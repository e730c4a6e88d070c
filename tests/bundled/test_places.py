"""Answers that are places survive pruning on the bundled model (boxes: no model that ships has learned them)."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from sparsesight import bundled, sparsify
from sparsesight.scenes.dataset import examples


@pytest.mark.parametrize("scenes", [8, pytest.param(16, marks=pytest.mark.slow)])
def test_where_something_is_survives_pruning(scenes: int) -> None:
    model, processor = bundled.load()
    asked = [example for example in examples("test-b", scenes) if example.question.kind == "where"]
    assert len(asked) >= scenes // 4 * 3
    prompts = []
    for example in asked:
        content = [{"type": "image"}, {"type": "text", "text": example.question.text}]
        turns = [{"role": "user", "content": content}]
        prompts.append(processor.apply_chat_template(turns, add_generation_prompt=True))
    images = [example.image for example in asked]
    inputs = processor(text=prompts, images=images, padding=True, return_tensors="pt")
    right = [example.question.answer for example in asked]
    for method in (None, "halves", "cdpruner"):
        with sparsify(model, method, retain=64) if method else nullcontext(), torch.inference_mode():
            out = model.generate(**inputs, max_new_tokens=4, do_sample=False)
        said = processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        wrong = sum(text.strip() != place for text, place in zip(said, right, strict=True))
        assert wrong <= (1 if method and scenes > 8 else 0), method
