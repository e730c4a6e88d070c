"""``sparsesight serve bundled`` over HTTP, asked by OpenAI's client: one server for all tests that use `address`."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
import torch
from PIL import Image

from sparsesight import Method, bundled, sparsify
from tests.docs.blocks import python_blocks
from tests.vllm.asked_server import PICTURE, QUESTION, QUESTIONS, SERVED, answer, expected, metric, same
from tests.vllm.client import picture_part, request
from tests.vllm.engines import in_blocks, loaded

pytestmark = pytest.mark.vllm


@pytest.mark.parametrize(
    ("retain", "method"),
    [
        (None, SERVED(64)),
        ("none", None),
        (1.0, None),
        (128, SERVED(128)),
        (0.5, SERVED(0.5)),
        ("50%", SERVED(0.5)),
        ([200, 50], SERVED((200, 50))),
    ],
)
def test_answers_are_those_of_transformers_at_the_budget_of_the_request(
    client: Any, retain: Any, method: Method | None
) -> None:
    found = answer(client.chat.completions.create(**request(QUESTION, [PICTURE], retain)))
    assert same(found, expected(QUESTION, [PICTURE], method)), (found, expected(QUESTION, [PICTURE], method))
    if method is not None:  # what is compared is pruned, and at this budget
        assert not same(found, expected(QUESTION, [PICTURE], None))


def test_two_pictures_and_none(client: Any) -> None:
    pictures = bundled.pictures()[:2]
    for asked in (pictures, []):
        found = answer(client.chat.completions.create(**request(QUESTION, asked)))
        assert same(found, expected(QUESTION, asked, SERVED(64) if asked else None)), asked


def test_the_client_that_the_readme_shows(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = (b for b in python_blocks("README.md") if "needs a server" in b.note)
    assert "http://127.0.0.1:8000" in block.code
    exec(block.code.replace("http://127.0.0.1:8000", address), {})
    assert capsys.readouterr().out.strip() == "H"


def test_the_request_that_the_guide_shows(address: str, client: Any) -> None:
    (block,) = python_blocks("docs/vllm.md")
    code = block.code
    for shown, real in {
        "http://127.0.0.1:8000": address,
        "llava-hf/llava-1.5-7b-hf": "bundled",
        "https://example.org/picture.png": picture_part(PICTURE.read_bytes())["image_url"]["url"],
        "What is on the card?": QUESTION,
    }.items():
        assert shown in code
        code = code.replace(shown, real)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["completion"].choices[0].message.content.strip() == QUESTIONS[PICTURE.name][1]["answer"]


def test_streaming_gives_the_same_in_parts(client: Any) -> None:
    whole = client.chat.completions.create(**request(QUESTION, [PICTURE]))
    stream = client.chat.completions.create(
        **request(QUESTION, [PICTURE], stream=True, stream_options={"include_usage": True})
    )
    parts = list(stream)
    text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert text == whole.choices[0].message.content
    assert parts[-1].usage == whole.usage and len(parts) > 2


def test_concurrent_requests_get_their_answers(address: str, client: Any) -> None:
    from openai import AsyncOpenAI

    asked = [(path, entry["question"]) for path in bundled.pictures() for entry in QUESTIONS[path.name][:3]]
    jobs = [(*one, (None, "none", 200)[i % 3]) for i, one in enumerate(asked)]

    async def ask_all() -> list[Any]:
        async with AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=300) as many:
            return await asyncio.gather(
                *(many.chat.completions.create(**request(q, [path], retain)) for path, q, retain in jobs)
            )

    together = [answer(x) for x in asyncio.run(ask_all())]
    for (path, question, retain), found in zip(jobs, together, strict=True):
        alone = answer(client.chat.completions.create(**request(question, [path], retain)))
        assert same(found, alone), (path, question, retain)


def test_the_answers_are_right(client: Any) -> None:
    right = [
        (path, x["question"], x["answer"]) for path in bundled.pictures() for x in QUESTIONS[path.name][:3]
    ]
    wrong = []
    for path, question, expected_words in right:
        said = client.chat.completions.create(**request(question, [path], min_tokens=None))
        if said.choices[0].message.content.strip() != expected_words:
            wrong.append((path, question, said.choices[0].message.content))
    assert len(wrong) <= len(right) // 10, wrong  # the dense model gives them all


def test_an_aborted_request_leaves_nothing_behind(address: str, client: Any) -> None:
    before = answer(client.chat.completions.create(**request(QUESTION, [PICTURE])))
    long = request("Where is the green ring?", [PICTURE], stream=True, max_tokens=600)
    long["extra_body"]["ignore_eos"] = True
    for _ in range(3):
        stream = client.chat.completions.create(**long)
        next(iter(stream))
        assert metric(address, "vllm:num_requests_running") == 1
        stream.close()
    until = time.monotonic() + 30
    while metric(address, "vllm:num_requests_running") and time.monotonic() < until:
        time.sleep(0.1)
    assert metric(address, "vllm:num_requests_running") == 0
    assert metric(address, "vllm:kv_cache_usage_perc") == 0
    assert same(answer(client.chat.completions.create(**request(QUESTION, [PICTURE]))), before)


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_says_what_was_kept_and_the_metrics_count_it(
    address: str, client: Any, stream: bool
) -> None:
    def header(**more: Any) -> str | None:
        asked = request(
            QUESTION, more.pop("pictures", [PICTURE]), more.pop("retain", None), stream=stream, **more
        )
        with client.chat.completions.with_streaming_response.create(**asked) as response:
            found: str | None = response.headers.get("x-sparsesight")
            for _ in response.iter_lines():
                pass
        return found

    def counters() -> list[float]:
        names = (
            "prompts_pruned",
            "visual_tokens",
            "visual_tokens_kept",
            "prompts_unpruned",
            "requests_refused",
        )
        return [metric(address, f"sparsesight:{name}_total") for name in names]

    before, (model, processor), average = counters(), loaded(), []
    prompt = f"USER: <image>\n{QUESTION} ASSISTANT:"
    inputs = processor(text=prompt, images=Image.open(PICTURE).convert("RGB"), return_tensors="pt")
    for retain in (None, [200, 50]):
        method = SERVED(64 if retain is None else tuple(retain))
        with sparsify(model, in_blocks(method)) as run, torch.no_grad():
            model(**inputs)
        average.append(run.report.samples[0].equal_tokens)
        counts = ",".join(str(len(stage[0])) for stage in run.kept)
        assert header(retain=retain) == f"{method.name}; visual=576; kept={average[-1]:.1f}; counts={counts}"
    assert header(retain="none") == 'unpruned; visual=576; reason="the request keeps every token"'
    assert header(pictures=[]) is None
    more = [b - a for a, b in zip(before, counters(), strict=True)]
    assert more[:2] == [2, 1152] and more[2] == pytest.approx(sum(average), abs=1) and more[3:] == [1, 0], (
        more
    )


def test_beam_search_takes_the_budget_of_the_request(address: str, client: Any) -> None:
    def pruned(retain: Any) -> tuple[float, float]:
        names = ("sparsesight:prompts_pruned_total", "sparsesight:prompts_unpruned_total")
        before = [metric(address, name) for name in names]
        asked = request(QUESTION, [PICTURE], retain, None, n=2, max_tokens=3, logprobs=False)
        asked["extra_body"]["use_beam_search"] = True
        assert len(client.chat.completions.create(**asked).choices) == 2
        first, second = (metric(address, name) - x for name, x in zip(names, before, strict=True))
        return first, second

    assert pruned("none")[0] == 0 < pruned("none")[1]
    assert pruned(None)[1] == 0 < pruned(None)[0]
    asked = request(QUESTION, [PICTURE], 64, None, n=2, max_tokens=2, logprobs=False, stream=True)
    asked["extra_body"]["use_beam_search"] = True
    streamed = client.chat.completions.with_raw_response.create(**asked)
    assert "visual=576" in streamed.headers["x-sparsesight"] and list(streamed.parse())
