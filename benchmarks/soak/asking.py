"""A request's outcome over HTTP, and whether it is the right one."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Any

import openai

from .pool import Case

TOLERANCE = 1e-3  # of log-probabilities, float32; other steps of a batch round differently

Answer = tuple[list[str], list[float]]  # tokens and their log-probabilities


@dataclass(frozen=True)
class Outcome:
    """What became of a request; ``wrong`` says why it should not have."""

    name: str
    kind: str
    status: int  # of HTTP; 0 for a request that was given up
    seconds: float
    wrong: str = ""
    deviation: float = 0.0  # largest difference of log-probabilities from the solo answer
    cached: int = 0  # tokens of the prompt that the prefix cache had; not known of a stream
    found: Answer | None = None  # what is judged later, as nobody knows yet what is right


async def answer(client: Any, case: Case, stream: bool = False) -> tuple[Answer, int]:
    """Ask, all at once or in parts; the answer, and how many tokens of the prompt were cached (0 of a stream)."""
    cached = 0
    if not stream:
        completion = await client.chat.completions.create(**case.body)
        content = completion.choices[0].logprobs.content
        details = getattr(completion.usage, "prompt_tokens_details", None)
        cached = getattr(details, "cached_tokens", None) or 0
    else:
        parts = await client.chat.completions.create(**case.body, stream=True)
        content = []
        async for part in parts:
            for choice in part.choices:
                content += choice.logprobs.content if choice.logprobs and choice.logprobs.content else []
    return ([x.token for x in content], [x.logprob for x in content]), cached


async def outcome(client: Any, case: Case, solo: dict[str, Answer], draw: random.Random) -> Outcome:
    """Send a case, and hold what comes back against what must."""
    start = asyncio.get_running_loop().time()

    def ended(status: int, wrong: str = "", **facts: Any) -> Outcome:
        seconds = asyncio.get_running_loop().time() - start
        return Outcome(
            case.name, case.kind, status, seconds, f"{case.name}: {wrong}" if wrong else "", **facts
        )

    try:
        if case.kind == "aborted":
            await _give_up(client, case, draw)
            return ended(0)
        found, cached = await answer(client, case, stream=draw.random() < 0.3)
    except openai.APIStatusError as error:
        if case.reason and 400 <= error.status_code < 500 and case.reason in str(error):
            return ended(error.status_code)
        return ended(error.status_code, f"status {error.status_code}, {str(error)[:300]}")
    except openai.OpenAIError as error:  # the connection broke, nothing came, or an error after the status
        return ended(-1, repr(error))
    if case.reason:
        return ended(200, "was answered, and should have been refused")
    if case.name not in solo:
        return ended(200, cached=cached, found=found)
    wrong, deviation = compared(found, solo[case.name])
    return ended(200, wrong, deviation=deviation, cached=cached)


def compared(found: Answer, right: Answer) -> tuple[str, float]:
    """What is wrong with an answer, empty if nothing is, and its largest deviation of a log-probability."""
    deviation = max((abs(x - y) for x, y in zip(found[1], right[1], strict=False)), default=0.0)
    same = found[0] == right[0] and deviation <= TOLERANCE
    return "" if same else f"{found} in place of {right}", deviation


async def _give_up(client: Any, case: Case, draw: random.Random) -> None:
    """Leave before an answer can be there, or in the middle of it."""
    if draw.random() < 0.5:
        asked = asyncio.ensure_future(client.chat.completions.create(**case.body))
        await asyncio.wait({asked}, timeout=draw.uniform(0.0, 0.6))
        asked.cancel()
        (ended,) = await asyncio.gather(asked, return_exceptions=True)
        if isinstance(ended, openai.OpenAIError):
            raise ended
        return
    parts = await client.chat.completions.create(**case.body, stream=True)
    wanted = draw.randrange(1, 6)
    async for _ in parts:
        wanted -= 1
        if not wanted:
            break
    await parts.close()
