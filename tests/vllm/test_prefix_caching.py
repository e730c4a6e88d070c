"""Chats over vLLM's prefix cache, in chunks, under load: every answer is what the same prompt gets in transformers."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from sparsesight import CDPruner, DivPrune, Halves, Random, SparseVLM, SparseVLMPlus
from sparsesight.methods import Method

from .engines import TOKENS, generated, loaded, pruner, questions, sampling

pytestmark = pytest.mark.vllm

METHOD = SparseVLMPlus(64)
SYSTEM = " ".join(f"Rule {i}: be brief and say what color it is." for i in range(6)) + " "
QUESTIONS = ["What color is the circle?", "How many cards are there?", "Which shape is on the card?"]
DEFAULTS: dict[str, Any] = {
    "enable_prefix_caching": True,
    "max_model_len": 2600,
    "hf_overrides": {"text_config": {"max_position_embeddings": 4096}},
    "limit_mm_per_prompt": {"image": 3},
}


@cache
def pictures() -> list[Any]:
    """With grain: patches of one even ground are alike, and then rounding decides which of them differs most."""
    from PIL import Image

    found, grain = [], np.random.default_rng(0)
    for picture, _ in questions()[::2]:
        pixels = np.asarray(picture).astype(int)
        found.append(
            Image.fromarray((pixels + grain.integers(-60, 61, pixels.shape)).clip(0, 255).astype("uint8"))
        )
    return found


@dataclass(frozen=True)
class Chat:
    """A prompt: its text, the numbers of its pictures, and the budget it asks for."""

    text: str
    images: tuple[int, ...] = ()
    asks: Any = None

    def ask(self, question: str, *images: int, answer: str = "") -> Chat:
        """The same with another turn."""
        text = f"{self.text}{answer} USER: {'<image>' * len(images)}\n{question} ASSISTANT:"
        return replace(self, text=text, images=self.images + images)

    @property
    def prompt(self) -> dict[str, Any]:
        data = {"image": [pictures()[i] for i in self.images]}
        return {"prompt": self.text, **({"multi_modal_data": data} if self.images else {})}

    @property
    def params(self) -> Any:
        return self.params_of(TOKENS)

    def params_of(self, tokens: int) -> Any:
        return sampling(tokens, extra_args=None if self.asks is None else {"sparsesight_retain": self.asks})


class Expected:
    """What transformers says to each chat."""

    def __init__(self, method: Method) -> None:
        self.method = method
        self.model, self.processor = loaded()
        self.known: dict[Chat, tuple[list[int], list[float]]] = {}

    def __call__(self, chat: Chat) -> tuple[list[int], list[float]]:
        if chat not in self.known:
            images = [pictures()[i] for i in chat.images]
            inputs = self.processor(text=chat.text, images=images or None, return_tensors="pt")
            dense = chat.asks == "none" or not images
            method = None if dense else replace(self.method, retain=chat.asks or self.method.retain)
            self.known[chat] = generated(self.model, inputs, method, self.processor)
        return self.known[chat]

    def check(self, chat: Chat, output: Any) -> None:
        ids, logprobs = self(chat)
        found = list(output.token_ids)
        assert found == ids, chat
        given = [step[t].logprob for step, t in zip(output.logprobs, ids, strict=True)]
        torch.testing.assert_close(torch.tensor(given), torch.tensor(logprobs), rtol=0, atol=1e-3)

    def said(self, chat: Chat) -> str:
        return str(self.processor.tokenizer.decode(self(chat)[0], skip_special_tokens=True))


def cached(llm: Any, chat: Chat) -> int:
    """Asks, and returns how many tokens of the prompt were found in the cache."""
    (found,) = llm.generate([chat.prompt], chat.params_of(1), use_tqdm=False)
    return int(found.num_cached_tokens)


def at_length(question: str) -> str:
    """The question in more than a block of tokens, so that full blocks hold it."""
    return " ".join([question] * 6)


def test_a_later_turn_finds_everything_of_the_turns_before_it(opened: Callable[..., Any]) -> None:
    llm, expected = opened(METHOD, **DEFAULTS), Expected(METHOD)
    chat = Chat(SYSTEM)
    length = 0
    for turn in range(3):
        answer = expected.said(chat) if turn else ""
        chat = chat.ask(at_length(QUESTIONS[turn]), *(turn,) if turn < 2 else (), answer=answer)
        (found,) = llm.generate([chat.prompt], chat.params, use_tqdm=False)
        expected.check(chat, found.outputs[0])
        assert found.num_cached_tokens == length // 32 * 32
        length = len(found.prompt_token_ids) + len(found.outputs[0].token_ids) - 1
    assert pruner(llm).tally.pruned == 2  # each picture once


@pytest.mark.parametrize(
    ("method", "kv_groups"),
    [
        (METHOD, False),
        pytest.param(SparseVLM(64), True, marks=pytest.mark.slow),
        pytest.param(Random(64, (-1, 3)), True, marks=pytest.mark.slow),
        pytest.param(DivPrune(64), False, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_turn_that_fills_no_block_is_found_as_well(
    opened: Callable[..., Any], method: Method, kv_groups: bool
) -> None:
    entry = {"sparsesight": {**method.to_dict(), "kv_groups": True}}
    more = {"additional_config": entry} if kv_groups else {}  # else the engine of the other tests
    llm, expected = opened(method, **DEFAULTS, **more), Expected(method)
    first = Chat(SYSTEM).ask("Color?", 0)
    (found,) = llm.generate([first.prompt], first.params_of(4), use_tqdm=False)
    length = len(found.prompt_token_ids)
    assert (length + 3) // 32 == (length - 1) // 32, (
        "the text is to end in the block in which the picture does"
    )
    # The answer's four tokens, of which the last is not computed; then one turn more, and another after the first.
    answer = expected.processor.tokenizer.decode(found.outputs[0].token_ids)
    chats = [first.ask(question, answer=answer) for question in (QUESTIONS[0], QUESTIONS[1])]
    for chat in (*chats, chats[0].ask(QUESTIONS[2], 1, answer=expected.said(chats[0]))):
        (found,) = llm.generate([chat.prompt], chat.params, use_tqdm=False)
        expected.check(chat, found.outputs[0])
        assert found.num_cached_tokens >= length + 2
    # The same prompt, of which one token is to be computed, and one that goes on in other words.
    assert cached(llm, first) == length - 1
    assert length - 8 < cached(llm, replace(first, text=first.text + " Red")) <= length
    assert cached(llm, replace(first, asks=100)) < 200


def test_what_is_shared(opened: Callable[..., Any]) -> None:
    """Text before a picture with everyone; what follows with the same picture, question and budget only."""
    llm = opened(METHOD, **DEFAULTS)
    system = Chat("Look: the circle is green. " + SYSTEM)
    one = system.ask(at_length(QUESTIONS[0]), 0)
    front = len(llm.get_tokenizer().encode(one.text.partition("<image>")[0])) // 32 * 32
    assert front >= 64 and cached(llm, one) == 0
    assert cached(llm, system.ask(QUESTIONS[0])) == front // 32 * 32
    assert cached(llm, system.ask(at_length(QUESTIONS[1]), 0)) == front
    assert cached(llm, replace(one, asks="none")) == front
    assert cached(llm, replace(one, asks=100)) == front
    longer = one.ask(QUESTIONS[2], answer="red")
    assert cached(llm, longer) > front + 500 and cached(llm, replace(longer, asks="none")) > front + 500
    other = system.ask(at_length(QUESTIONS[1]), 0).ask(QUESTIONS[2], answer="red")
    assert cached(llm, other) > front + 500
    assert cached(llm, system.ask(QUESTIONS[2], 0).ask(QUESTIONS[2], answer="red")) == front
    assert cached(llm, replace(longer, asks=100)) > front + 500
    # Of 570 of 576 tokens nothing is removed in whole blocks, so that it is a prompt that nobody prunes.
    assert cached(llm, replace(longer, asks=570)) == cached(llm, replace(longer, asks="none")) > front + 500


class Players:
    """Random chats that are asked, followed up, cut short, all at once."""

    def __init__(self, seed: int, expected: Expected) -> None:
        self.random, self.expected = random.Random(seed), expected
        self.open: list[Chat] = []

    def next(self) -> Chat:
        """A new chat, or one more turn of a chat before."""
        chance = self.random.random()
        if self.open and chance < 0.5:
            chat = self.random.choice(self.open)
            answer = self.expected.said(chat)
        else:
            chat = Chat(self.random.choice(["", SYSTEM]), asks=self.random.choice([None, None, "none", 100]))
            answer = ""
        images = [i for i in range(2) if self.random.random() < 0.4] if len(chat.images) < 2 else []
        chat = chat.ask(self.random.choice(QUESTIONS), *images[: 2 - len(chat.images)], answer=answer)
        if len(chat.text) < 900:
            self.open.append(chat)
        return chat


def play(llm: Any, players: Players, rounds: int) -> int:
    """Ask while others are being answered, abort some, and check every answer; returns how many there were."""
    core, asked, done = llm.llm_engine, {}, 0
    running: set[str] = set()
    for number in range(rounds * 100):
        if len(asked) < rounds and players.random.random() < 0.6 and len(running) < 5:
            chat = players.next()
            name = core.add_request(f"{number}", chat.prompt, chat.params)
            asked[name] = chat
            running.add(name)
        if running and players.random.random() < 0.05:
            name = players.random.choice(sorted(running))
            core.abort_request([name], internal=True)
            running.discard(name)
        for output in core.step():
            name = next(n for n in running if n.startswith(output.request_id))
            if output.finished:
                players.expected.check(asked[name], output.outputs[0])
                running.discard(name)
                done += 1
        if len(asked) == rounds and not running:
            break
    assert not core.has_unfinished_requests()
    return done


@pytest.mark.parametrize(
    ("method", "kv_groups"),
    [
        (METHOD, False),
        pytest.param(METHOD, True, marks=pytest.mark.slow),
        pytest.param(SparseVLM(64), False, marks=pytest.mark.slow),
        pytest.param(SparseVLM(64), True, marks=pytest.mark.slow),
        (DivPrune(64), False),
        pytest.param(Halves(64), False, marks=pytest.mark.slow),
        pytest.param(CDPruner(64), False, marks=pytest.mark.slow),
        pytest.param(Random(64, (-1, 3)), False, marks=pytest.mark.slow),
        (Random(64, (-1, 3)), True),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("seed", "rounds"), [(0, 16), *(pytest.param(i, 150, marks=pytest.mark.slow) for i in range(1, 4))]
)
def test_random_chats_under_load(
    opened: Callable[..., Any], method: Method, kv_groups: bool, seed: int, rounds: int
) -> None:
    # 82 blocks hold one longest prompt, eight times as many where each layer has its own; a step holds one picture
    # with its question.
    blocks = 700 if kv_groups else 110
    entry = {"sparsesight": {**method.to_dict(), "kv_groups": kv_groups}}
    llm = opened(
        method,
        **DEFAULTS,
        num_gpu_blocks_override=blocks,
        max_num_batched_tokens=1300,
        max_num_seqs=4,
        additional_config=entry,
    )
    assert play(llm, Players(seed, Expected(method)), rounds) > rounds // 2
