"""The token ids of prompts and answers, the same that the processor gives to a user's."""

from __future__ import annotations

from typing import Any

from sparsesight.bundled.smol.base import END

OPENING = "<|im_start|>user\n"  # what stands before the picture
CLOSING = "<|im_end|>\n<|im_start|>assistant\n"  # what stands between a question and its answer
SYSTEM = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
)


class Prompts:
    """Token ids by the tokenizer of the base model."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.opening, self.closing = self.ids(OPENING), self.ids(CLOSING)
        self.end: int = self.ids(END)[0]

    def ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def question(self, text: str) -> list[int]:
        """What follows the picture, up to where the answer begins."""
        return self.ids("\n" + text) + self.closing

    def word(self, word: str) -> int:
        """The one token of a word as it stands inside a sentence."""
        ids = self.ids(word if word.isdigit() else " " + word)
        if len(ids) != 1:
            raise ValueError(f"{word!r} is {len(ids)} tokens, not one")
        return ids[0]

    def answer(self, text: str) -> list[int]:
        """Every word keeps the blank before it: so "heart" is the token that names the heart in a question."""
        return self.ids(text if text[0].isdigit() else " " + text)
