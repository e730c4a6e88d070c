"""The check that a model with eyes still talks: what counts as sentences, and that both models are asked alike."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import LlamaForCausalLM

from . import small_language_model
from .conftest import script


@pytest.fixture(scope="module")
def probe_chat() -> Any:
    return script("probe_chat")


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("Bees live in hives that they build themselves.", True),
        ("1. Take a cup. 2. Boil some water.", True),
        ("blue triangle", False),
        ("no", False),
        ("", False),
        ("Star star star star star star of the sea", False),
        ("and so it goes on for ever", False),
    ],
)
def test_sentences(probe_chat: Any, text: str, is_one: bool) -> None:
    assert probe_chat.sentences(text) is is_one


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("It is a book of books. It is a pen. It is a cup.", False),  # three words
        ("It is a good book. It is a good pen. It is a good cup.", True),
        ("It is a good book. It is a good pen.", False),
        ("no", False),
        ("", False),
    ],
)
def test_loops(probe_chat: Any, text: str, is_one: bool) -> None:
    assert probe_chat.loops(text) is is_one


def test_200_instructions_none_of_which_is_replayed(probe_chat: Any) -> None:
    asked = probe_chat.unseen()
    assert len(asked) == len(set(asked)) == 200
    assert not set(asked) & set(script("training.smol.replay").instructions()[0])


def test_the_same_model_answers_alike_and_another_does_not(probe_chat: Any) -> None:
    parts = small_language_model.parts()
    models = [LlamaForCausalLM(parts["config"]).eval() for _ in range(2)]
    for model in models:
        model.load_state_dict(parts["state"])
    processor = type("Processor", (), {"tokenizer": parts["tokenizer"]})()
    asked = ["Where is the star?", "How many objects are there?", "Is there a ring?"]
    same = probe_chat.compared(*models, processor, parts["tokenizer"], asked)
    assert same["same_first_five_tokens"] == 1.0 and same["n"] == 3
    assert [one["asked"] for one in same["answers"]] == asked
    assert all(one["base"] == one["with_eyes"] for one in same["answers"])
    models[1].model.norm.weight.data.neg_()
    assert probe_chat.compared(*models, processor, parts["tokenizer"], asked)["same_first_five_tokens"] < 1.0
