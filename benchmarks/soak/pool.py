"""The requests of a soak: a fixed pool of questions with answers, and requests that can have none."""

from __future__ import annotations

import base64
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sparsesight import bundled

MAX_LENGTH = 1300  # two pictures and a question
SHORT, LONG = 8, 96  # output tokens; long answers need blocks that they did not have at first
RETAINS: tuple[Any, ...] = (None, "none", 32, 128, 0.5, [200, 100, 50])
# How often each kind is sent.
SHARES = {
    "one picture": 0.44,
    "two pictures": 0.12,
    "text": 0.15,
    "aborted": 0.13,
    "malformed": 0.06,
    "oversized": 0.05,
    "no budget": 0.05,
}
ANSWERED = ("one picture", "two pictures", "text")
REFUSED = ("malformed", "oversized", "no budget")


@dataclass(frozen=True)
class Case:
    """A request, as arguments of `chat.completions.create`; ``reason``: a word that its refusal must hold."""

    name: str
    kind: str
    body: dict[str, Any]
    reason: str = ""


def pool(seed: int, pictured: int = 60) -> dict[str, list[Case]]:
    """Cases by kind, the same for the same seed; ``pictured``: how many different ones about one picture."""
    pictures = {path.name: path.read_bytes() for path in bundled.pictures()}
    asked = {name: [x["question"] for x in found] for name, found in bundled.picture_questions().items()}
    names = list(pictures)
    draw = random.Random(seed)
    every = [(n, q, r) for n in names for q in asked[n] for r in RETAINS]
    one = [
        Case(f"{n}: {q} at {r}", "one picture", chat(q, [pictures[n]], r, LONG if i % 5 < 2 else SHORT))
        for i, (n, q, r) in enumerate(every)
    ]
    two = [
        Case(f"{a} and {b}: {q} at {r}", "two pictures", chat(q, [pictures[a], pictures[b]], r))
        for a, b in itertools.permutations(names, 2)
        for q in asked[b][:1]
        for r in (None, "none", 200)
    ]
    words = sorted({question for found in asked.values() for question in found})
    first, question = pictures[names[0]], words[0]
    found = {
        "one picture": draw.sample(one, min(pictured, len(one))),
        "two pictures": draw.sample(two, 12),
        "text": [Case(q, "text", chat(q, [])) for q in words[:10]],
        "malformed": [
            Case("no picture", "malformed", chat(question, [b"this is no picture"]), "image"),
            Case("half a picture", "malformed", chat(question, [first[: len(first) // 2]]), "image"),
            Case("nothing", "malformed", chat(question, [b""]), "image"),
        ],
        "oversized": [
            Case("long text", "oversized", chat("what color is it? " * MAX_LENGTH, []), str(MAX_LENGTH)),
            Case("long text", "oversized", chat("what? " * MAX_LENGTH, [first]), str(MAX_LENGTH)),
            Case("three pictures", "oversized", chat(question, [first] * 3), "At most 2"),
        ],
        "no budget": [
            Case(f"at {r}", "no budget", chat(question, [first], r), "sparsesight_retain")
            for r in ("many", -3, 1.5, [1, 2])
        ],
    }
    found["aborted"] = [
        Case(case.name, "aborted", {**case.body, "max_tokens": 200, "extra_body": _endless(case)})
        for case in found["one picture"][:20] + found["text"][:3]
    ]
    return found


def sequence(cases: dict[str, list[Case]], count: int, seed: int) -> list[Case]:
    """``count`` cases in random order, of each kind its share."""
    draw = random.Random(seed)
    kinds = draw.choices(list(SHARES), list(SHARES.values()), k=count)
    return [draw.choice(cases[kind]) for kind in kinds]


def chat(question: str, pictures: Sequence[bytes], retain: Any = None, tokens: int = SHORT) -> dict[str, Any]:
    """A question about pictures, answered with exactly so many tokens."""
    urls = ["data:image/png;base64," + base64.b64encode(data).decode() for data in pictures]
    content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {
        "model": "bundled",
        "temperature": 0,
        "max_tokens": tokens,
        "logprobs": True,
        "messages": [{"role": "user", "content": [*content, {"type": "text", "text": question}]}],
        # More words than the answer has, so that there are some that the model is unsure of.
        "extra_body": {
            "add_special_tokens": True,
            "min_tokens": tokens,
            **({} if retain is None else {"vllm_xargs": {"sparsesight_retain": retain}}),
        },
    }


def _endless(case: Case) -> dict[str, Any]:
    return {**case.body["extra_body"], "ignore_eos": True}
