"""Chats of several turns: their prompts as token ids, and how long an engine takes to the first token of each turn."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

PICTURE, NEWLINE, USER, ASSISTANT, COLON = 4, 5, 6, 7, 8  # ids of the bundled tokenizer
WORDS = (9, 100)  # its tokens that mark nothing, from and to


@dataclass(frozen=True)
class Kind:
    """What a chat consists of.

    Attributes:
        name: for the command line.
        title: as in the table.
        turns: how many.
        pictures: in how many of its first turns a picture comes.
        system: words of the system prompt in front.
    """

    name: str
    title: str
    turns: int
    pictures: int
    system: int = 0


@dataclass(frozen=True)
class Turn:
    """What became of a turn.

    Attributes:
        first, first_cpu: seconds to the first token, by the wall clock and of the processor (all threads).
        prompt: tokens of the prompt, visual ones included.
        cached: of these, found in the prefix cache.
        answer: the ids of the answer.
    """

    first: float
    first_cpu: float
    prompt: int
    cached: int
    answer: list[int]


def kinds(system: int) -> tuple[Kind, ...]:
    """The chats of the benchmark; ``system`` words where a chat has a system prompt."""
    return (
        Kind("picture", "one picture", 5, 1),
        Kind("pictures", "a picture per turn", 5, 5),
        Kind("system", "system prompt, one picture", 5, 1, system),
        Kind("text", "system prompt, text only", 5, 0, system),
        Kind("single", "a single question", 1, 1),
    )


def words(choose: random.Random, count: int) -> list[int]:
    """So many random ids that mark no turn."""
    return [choose.randrange(*WORDS) for _ in range(count)]


def question(choose: random.Random, picture: bool, count: int) -> list[int]:
    """A turn of the user, as the bundled model's chat template writes it, with a question of ``count`` words."""
    return [USER, COLON, *([PICTURE, NEWLINE] if picture else []), *words(choose, count), ASSISTANT, COLON]


def play(
    engines: Sequence[Any],
    kind: Kind,
    seed: str,
    asked: int,
    params: Any,
    draw: Callable[[random.Random], Any],
    order: Sequence[int],
) -> list[list[Turn]]:
    """Lead a chat with every engine, turn by turn; a prompt holds the engine's own answers of the turns before it.

    Args:
        engines: all idle.
        kind: of the chat.
        seed: the same seed gives the same questions and pictures.
        asked: words of a question.
        params: of every request.
        draw: makes a picture.
        order: which engine comes first, second, ... in each turn.

    Returns:
        The turns of every engine.
    """
    choose = random.Random(seed)
    system, pictures = words(choose, kind.system), []
    ids = [list(system) for _ in engines]
    turns: list[list[Turn]] = [[] for _ in engines]
    for turn in range(kind.turns):
        new = question(choose, turn < kind.pictures, asked)
        if turn < kind.pictures:
            pictures.append(draw(choose))
        for e in order:
            ids[e] += new
            prompt: dict[str, Any] = {"prompt_token_ids": list(ids[e])}
            if pictures:
                prompt["multi_modal_data"] = {"image": list(pictures)}
            turns[e].append(ask(engines[e], prompt, params))
            ids[e] += turns[e][-1].answer
    return turns


def summary(turns: Sequence[Turn]) -> dict[str, Any]:
    """A chat as JSON, seconds to a tenth of a millisecond."""
    return {
        "first": [round(one.first, 4) for one in turns],
        "first_cpu": [round(one.first_cpu, 4) for one in turns],
        "prompt": [one.prompt for one in turns],
        "cached": [one.cached for one in turns],
        "answered": sum(len(one.answer) for one in turns),
    }


def ask(llm: Any, prompt: dict[str, Any], params: Any) -> Turn:
    """Send one request to an idle engine, and wait for the answer. The front end's time counts.

    Raises:
        RuntimeError: if there is no answer.
    """
    engine, first = llm.llm_engine, None
    wall, cpu = time.perf_counter(), time.process_time()
    engine.add_request(str(wall), prompt, params)
    while engine.has_unfinished_requests():
        for output in engine.step():
            answer = list(output.outputs[0].token_ids)
            if answer and first is None:
                first = time.perf_counter() - wall, time.process_time() - cpu
            if output.finished and first is not None:
                return Turn(*first, len(output.prompt_token_ids), output.num_cached_tokens or 0, answer)
    raise RuntimeError("a request was not answered")
