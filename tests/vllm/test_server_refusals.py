"""What the server refuses, over HTTP: in a sentence, as the client's error, and without harm to others."""

from __future__ import annotations

import asyncio
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.vllm.asked_server import LENGTH, PICTURE, QUESTION, SERVED, answer, expected, same
from tests.vllm.client import picture_part, request

pytestmark = pytest.mark.vllm


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("retain", ["many", -3, 1.5, [1, 2, 3], True])
def test_a_budget_that_cannot_be_is_a_bad_request(client: Any, retain: Any, stream: bool) -> None:
    from openai import BadRequestError

    with pytest.raises(BadRequestError, match=r"sparsesight_retain.*keep(s|) every token"):
        client.chat.completions.create(**request(QUESTION, [PICTURE], retain, stream=stream))
    found = answer(client.chat.completions.create(**request(QUESTION, [PICTURE])))
    assert same(found, expected(QUESTION, [PICTURE], SERVED(64)))


def bad(kind: str) -> dict[str, Any]:
    """A request that cannot be answered."""
    asked = request(QUESTION)
    content = asked["messages"][0]["content"]
    if kind == "no picture":
        content.insert(0, picture_part(b"this is no picture"))
    elif kind == "half a picture":
        content.insert(0, picture_part(PICTURE.read_bytes()[:5000]))
    elif kind == "no base64":
        content.insert(0, {"type": "image_url", "image_url": {"url": "data:image/png;base64,%%%"}})
    elif kind == "long text":
        content[0]["text"] = "what color is the circle? " * LENGTH
    elif kind in ("nobody there", "no such file"):
        url = "http://127.0.0.1:9/a.png" if kind == "nobody there" else "file:///nowhere/a.png"
        content.insert(0, {"type": "image_url", "image_url": {"url": url}})
    elif kind == "misspelled":
        asked["extra_body"]["vllm_xargs"] = {"sparsesight_retian": 64}
    elif kind == "in the wrong place":
        asked["extra_body"]["sparsesight_retain"] = 64
    elif kind == "many pictures":
        asked = request(QUESTION, [PICTURE] * 3)
    return asked


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("no picture", "image"),
        ("half a picture", "image"),
        ("no base64", "base64|image"),
        ("long text", str(LENGTH)),
        ("many pictures", "At most 2"),
        ("nobody there", "cannot be fetched"),
        ("no such file", "cannot be fetched|file"),
        ("misspelled", "did you mean 'sparsesight_retain'"),
        ("in the wrong place", "vllm_xargs"),
    ],
)
def test_a_request_that_cannot_be_answered_is_a_bad_request(client: Any, kind: str, words: str) -> None:
    from openai import APIStatusError

    with pytest.raises(APIStatusError, match=words) as error:
        client.chat.completions.create(**bad(kind))
    assert 400 <= error.value.status_code < 500


def fresh(seed: int) -> dict[str, Any]:
    """A picture that the server has not seen."""
    data = BytesIO()
    generator = np.random.default_rng(seed)
    Image.fromarray(generator.integers(0, 255, (64, 64, 3), np.uint8)).save(data, "PNG")
    return picture_part(data.getvalue())


@pytest.mark.parametrize(
    "wrong",
    [{"vllm_xargs": {"sparsesight_retain": -3}}, {"prompt_logprobs": 0}],
    ids=["before the pictures are read", "after"],
)
def test_a_refused_request_does_not_fail_a_good_one_with_the_same_new_picture(
    address: str, wrong: dict[str, Any]
) -> None:
    from openai import APIStatusError, AsyncOpenAI

    async def ask(many: Any, part: Any, more: dict[str, Any]) -> int:
        asked = request(QUESTION, [], None, max_tokens=1, min_tokens=None, logprobs=False)
        asked["messages"][0]["content"].insert(0, part)
        asked["extra_body"] |= more
        try:
            await many.chat.completions.create(**asked)
        except APIStatusError as error:
            return error.status_code
        return 200

    async def rounds() -> list[tuple[int, ...]]:
        async with AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=300) as many:
            found = []
            for i in range(6):
                part = fresh(100 * len(str(wrong)) + i)
                jobs = [ask(many, part, more) for more in (wrong, {}, wrong, {"top_k": 5})]
                found.append(tuple(await asyncio.gather(*jobs)))
            return found

    assert set(asyncio.run(rounds())) == {(400, 200, 400, 200)}
