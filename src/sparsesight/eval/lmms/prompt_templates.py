"""Prompts of LLaVA-1.5's evaluation, for tasks that lmms-eval words differently."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def mmbench_prompt(doc: Mapping[str, Any], settings: Any = None) -> str:
    """Hint, question, one option a line, and the request for a letter (LLaVA, llava/eval/model_vqa_mmbench.py)."""
    return _options(doc, "Answer with the option's letter from the given choices directly.")


def mmbench_cn_prompt(doc: Mapping[str, Any], settings: Any = None) -> str:
    """The same with the request in Chinese."""
    return _options(doc, "请直接回答选项字母。")


def _options(doc: Mapping[str, Any], request: str) -> str:
    lines = [] if _is_none(doc["hint"]) else [doc["hint"]]
    lines.append(doc["question"])
    for letter in "ABCD":
        if _is_none(doc.get(letter)):
            break
        lines.append(f"{letter}. {doc[letter]}")
    return "\n".join([*lines, request])


def _is_none(value: Any) -> bool:
    """Whether a cell of MMBench's table is empty: the copies in circulation write that in several ways."""
    if isinstance(value, str):
        return value.lower() in ("", "nan", "none")
    return value is None or (isinstance(value, float) and math.isnan(value))
