"""The requests of a soak: a fixed pool of questions with answers, and requests that can have none."""

from __future__ import annotations

import base64
import io
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from sparsesight import bundled

MAX_LENGTH = 1400  # two pictures and a chat about them
SHORT, LONG = 8, 40  # output tokens; long answers need blocks that they did not have at first
TURNS = 3  # of a chat
# How often each kind is sent; a fresh picture comes with a refused request and a good one.
SHARES = {
    "one picture": 0.34,
    "two pictures": 0.09,
    "chat": 0.15,
    "text": 0.13,
    "aborted": 0.12,
    "fresh picture": 0.03,
    "malformed": 0.05,
    "oversized": 0.05,
    "no budget": 0.04,
}
ANSWERED = ("one picture", "two pictures", "text", "chat")
REFUSED = ("malformed", "oversized", "no budget", "refused late")


@dataclass(frozen=True)
class Case:
    """A request, as arguments of `chat.completions.create`; ``reason``: a word that its refusal must hold."""

    name: str
    kind: str
    body: dict[str, Any]
    reason: str = ""


def pool(seed: int, counts: Sequence[int], pictured: int = 60) -> dict[str, list[Case]]:
    """Cases by kind, the same for the same seed.

    Args:
        counts: tokens after each pruning layer of the server's method, which a request may ask for.
        pictured: how many different cases about one picture there are; a fifth as many about two, and chats.
    """
    retains: tuple[Any, ...] = (None, "none", 32, 128, 0.5, [*counts])
    pictures = {path.name: path.read_bytes() for path in bundled.pictures()}
    asked = {name: [x["question"] for x in found] for name, found in bundled.picture_questions().items()}
    names = list(pictures)
    draw = random.Random(seed)
    every = [(n, q, r) for n in names for q in asked[n] for r in retains]
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
        "two pictures": draw.sample(two, max(pictured // 5, 1)),
        "text": [Case(q, "text", chat(q, [])) for q in words[: max(pictured // 6, 1)]],
        "chat": [
            case for i in range(max(pictured // 5, 1)) for case in _chat(f"chat {i}", draw, pictures, asked)
        ],
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
            for r in ("many", -3, 1.5, [1] * (len(counts) + 1))
        ],
    }
    found["aborted"] = [
        Case(case.name, "aborted", {**case.body, "max_tokens": 100, "extra_body": _endless(case)})
        for case in found["one picture"][:20] + found["text"][:3]
    ]
    return found


def sequence(cases: dict[str, list[Case]], count: int, seed: int) -> list[Case]:
    """``count`` cases in random order, of each kind its share."""
    draw = random.Random(seed)
    made: list[Case] = []
    while len(made) < count:
        (kind,) = draw.choices(list(SHARES), list(SHARES.values()))
        made += fresh(len(made), draw) if kind == "fresh picture" else [draw.choice(cases[kind])]
    return made[:count]


def fresh(number: int, draw: random.Random) -> list[Case]:
    """A picture that no request had before, with a request that is refused and one that is not, in any order.

    The refusal comes before the picture is read, or when it has been, by the plugin or by vLLM itself, and the engine
    never gets it.
    """
    name = draw.choice([path.name for path in bundled.pictures()])
    question = draw.choice(bundled.picture_questions()[name])["question"]
    picture = Image.open(next(path for path in bundled.pictures() if path.name == name)).convert("RGB")
    colour = tuple(draw.randrange(256) for _ in range(3))
    at = draw.randrange(picture.width - 16), draw.randrange(picture.height - 16)
    picture.paste(colour, (*at, at[0] + 16, at[1] + 16))
    data = io.BytesIO()
    picture.save(data, "png")
    body = chat(question, [data.getvalue()])
    bad = {**body, "extra_body": {**body["extra_body"], "vllm_xargs": {"sparsesight_retain": "many"}}}
    late = {**body, "extra_body": {**body["extra_body"], "prompt_logprobs": 1}}
    words = "what? " * (5 * MAX_LENGTH // 12)  # too long only together with the picture
    refused = draw.choice(
        [
            Case(f"fresh {number}, no budget", "no budget", bad, "sparsesight_retain"),
            Case(f"fresh {number}, refused late", "refused late", late, "prompt_logprobs"),
            Case(f"fresh {number}, too long", "oversized", chat(words, [data.getvalue()]), str(MAX_LENGTH)),
        ]
    )
    pair = [refused, Case(f"fresh {number}", "fresh picture", body)]
    return pair[:: draw.choice((1, -1))]


def _chat(
    name: str, draw: random.Random, pictures: dict[str, bytes], asked: dict[str, list[str]]
) -> list[Case]:
    """The turns of a chat: a picture with the first question, and sometimes one with a later one; no answers yet."""
    shown = draw.sample(list(pictures), 2)
    second = draw.choice((1, 2, TURNS))  # the turn with the second picture, if any
    system = draw.choice(("", "Answer with one word. "))
    retain = draw.choice((None, None, 128))
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    turns = []
    for turn in range(TURNS):
        own = [pictures[shown[0]]] if turn == 0 else [pictures[shown[1]]] if turn == second else []
        question = draw.choice(asked[shown[turn >= second]])
        body = chat(question, own, retain)
        messages += body["messages"]
        turns.append(Case(f"{name}, turn {turn}", "chat", {**body, "messages": list(messages)}))
        messages.append({"role": "assistant", "content": f"{name}, turn {turn}"})
    return turns


def with_answers(case: Case, solo: dict[str, tuple[list[str], Any]]) -> Case:
    """A turn of a chat with what was answered to the turns before it; other cases as they are."""
    messages = [
        {**x, "content": "".join(solo[x["content"]][0])} if x["role"] == "assistant" else x
        for x in case.body["messages"]
    ]
    return replace(case, body={**case.body, "messages": messages})


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
