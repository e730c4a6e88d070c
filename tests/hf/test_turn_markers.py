"""How turns are marked: by a chat template, by ids, by an argument."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sparsesight.core.turns import Turns
from sparsesight.errors import SparseSightError
from tests.hf import tiny

END = "ASSISTANT :"


# -- how turns are marked -----------------------------------------------------------------------------------------

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content %}{% if p.type == 'image' %}<image>{% else %}{{ p.text }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
PLAIN = (
    "{% for m in messages %}{% if m.role == 'user' %}USER : {{ m.content }} {% else %}ASSISTANT : {{ m.content }} </s>"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT :{% endif %}"
)


@pytest.mark.parametrize("template", [CHATML, PLAIN])
def test_a_chat_template_tells_turns(template: str) -> None:
    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>", "<|im_start|>", "<|im_end|>"]})
    tokenizer.add_tokens(["user", "assistant", "<think>"])
    tokenizer.chat_template = template
    turns = Turns.of(None, tokenizer)
    assert turns is not None
    chat = [("user", "what is red ?"), ("assistant", "a star"), ("user", "how many ?")]
    text = tokenizer.apply_chat_template(
        [{"role": role, "content": said} for role, said in chat], tokenize=False, add_generation_prompt=True
    )
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
    marks = turns.marks(ids)
    words = tokenizer.convert_ids_to_tokens(ids[0].tolist())
    assert marks.end is not None and marks.start is not None and marks.template is not None
    ends = marks.end[0].nonzero()[:, 0].tolist()
    assert len(ends) == 2 and {words[i] for i in ends} <= {"assistant", ":"}
    assert [words[i] for i in marks.start[0].nonzero()[:, 0].tolist()] == ["what", "how"]
    asked = [w for w, t in zip(words, marks.template[0].tolist(), strict=True) if not t]
    assert {"what", "how", "star", "?"} <= set(asked) and "ASSISTANT" not in asked and "user" not in asked


def test_a_template_that_shows_nothing_is_none() -> None:
    tokenizer = tiny.tokenizer()
    assert Turns.of(None, tokenizer) is None and Turns.of(None, None) is None
    for template in (
        "{{ messages[0].content.florb.florb }}",
        "hello",
        "{% for m in messages %}{{ m.content }}{% endfor %}",
    ):
        tokenizer.chat_template = template
        assert Turns.of(None, tokenizer) is None


@pytest.mark.parametrize(
    ("turns", "processor", "said"),
    [
        ("ASSISTANT :", None, "processor"),
        ([], None, "at least one"),
        ([1.5], None, "token id"),
        ([True], None, "token id"),
        ([-1], None, "token id"),
        ([[]], None, "token id"),
        (3.5, None, r"turns=3\.5: give what ends"),
        (b"abc", None, r"turns=b'abc': give what ends"),
        (torch.tensor([1.5]), None, "token id"),
        (object(), None, "token id"),
        (None, object(), "processor=object"),
    ],
)
def test_markers_that_are_none(turns: Any, processor: Any, said: str) -> None:
    with pytest.raises(SparseSightError, match=said):
        Turns.of(turns, processor)


def test_markers_as_tensors() -> None:
    for turns in (torch.tensor([[3, 4]]), [torch.tensor([3, 4])], [[3, 4]]):
        found = Turns.of(turns, None)
        assert found is not None and found.end == ((3, 4),)


def test_markers_of_ends_leave_the_starts_to_the_template() -> None:
    """Otherwise an answer would judge the picture of the turn after it, where nothing else is said."""
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = PLAIN
    whole, given = Turns.of(None, tokenizer), Turns.of(END, tokenizer)
    assert whole is not None and given is not None and given.start == whole.start != ()
