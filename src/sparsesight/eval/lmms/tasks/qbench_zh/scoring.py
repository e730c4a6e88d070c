"""Chinese Q-Bench: multiple choice about how a picture looks."""

import re
from collections.abc import Mapping
from typing import Any

LETTERS = "ABCD"
REQUEST = "请直接回答选项字母。"  # as LLaVA-1.5 asks for letters in Chinese
Doc = Mapping[str, Any]


def doc_to_visual(doc: Doc) -> list[Any]:
    return [doc["image"].convert("RGB")]


def doc_to_text(doc: Doc) -> str:
    options = [f"{letter}. {text}" for letter, text in zip(LETTERS, doc["candidates"], strict=False)]
    return "\n".join([doc["question"], *options, REQUEST])


def letter(doc: Doc) -> str:
    """The letter of the right option."""
    return LETTERS[list(doc["candidates"]).index(doc["correct_ans"])]


def process_results(doc: Doc, results: list[str]) -> dict[str, float]:
    """An answer is right if the only letter that it names, or the option that it spells out, is the right one."""
    answer = results[0].strip()
    named = set(re.findall(r"(?<![A-Za-z])[A-D](?![A-Za-z])", answer))
    spelled = {
        LETTERS[i] for i, text in enumerate(doc["candidates"]) if answer.strip(" .。") == text.strip(" .。")
    }
    return {"exact_match": float((named or spelled) == {letter(doc)})}
