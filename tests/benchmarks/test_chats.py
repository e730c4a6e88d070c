"""The benchmark of chats in vLLM: what is asked, how it is timed and compared, without vLLM."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.serving import chats, figures, presenting
from benchmarks.serving.chats import Kind, Turn
from sparsesight import SparseVLMPlus
from sparsesight.bundled import MODEL_PATH
from sparsesight.random_models import Shape


class Engine:
    """Answers with ``own`` twice, the second time in a step of its own, and remembers what it was asked."""

    def __init__(self, own: int, asked: list[int]) -> None:
        self.own, self.asked = own, asked
        self.prompts: list[dict[str, Any]] = []
        self.made = 2
        self.llm_engine = self

    def add_request(self, name: str, prompt: dict[str, Any], params: Any) -> None:
        self.asked.append(self.own)
        self.prompts.append(prompt)
        self.made = 0

    def has_unfinished_requests(self) -> bool:
        return self.made < 2

    def step(self) -> list[Any]:
        self.made += 1
        answer = SimpleNamespace(token_ids=[self.own] * self.made)
        ids = self.prompts[-1]["prompt_token_ids"]
        return [
            SimpleNamespace(
                outputs=[answer],
                finished=self.made == 2,
                prompt_token_ids=ids,
                num_cached_tokens=len(ids) // 2,
            )
        ]


def test_a_turn_is_written_as_the_bundled_model_reads_it() -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(MODEL_PATH, local_files_only=True)
    for text in ("USER: <image>\nred star ASSISTANT:", "USER: red star ASSISTANT:"):
        ids = tokenizer.encode(text, add_special_tokens=False)
        found = chats.question(random.Random(0), "<image>" in text, 2)
        assert len(found) == len(ids)
        assert [i if i < chats.WORDS[0] else None for i in found] == [
            i if i < chats.WORDS[0] else None for i in ids
        ]
    assert chats.WORDS[1] == len(tokenizer)


def test_a_prompt_holds_every_picture_so_far_and_the_answers_of_its_own_engine() -> None:
    asked: list[int] = []
    engines = [Engine(50, asked), Engine(60, asked)]
    kind = Kind("some", "", turns=3, pictures=2, system=4)
    found = chats.play(engines, kind, "seed", 5, None, lambda choose: choose.random(), (1, 0))
    assert asked == [60, 50] * 3
    for engine, turns in zip(engines, found, strict=True):
        first, second, third = (prompt["prompt_token_ids"] for prompt in engine.prompts)
        assert len(first) == 4 + 5 + 6 and first[4:8] == [6, 8, 4, 5] and first[-2:] == [7, 8]
        assert second[: len(first) + 2] == [*first, engine.own, engine.own]
        assert third[: len(second) + 2] == [*second, engine.own, engine.own]
        assert len(third) - len(second) == 2 + 5 + 4  # no picture
        pictures = [prompt["multi_modal_data"]["image"] for prompt in engine.prompts]
        assert [len(x) for x in pictures] == [1, 2, 2] and pictures[2][:1] == pictures[0]
        assert [turn.cached for turn in turns] == [len(x) // 2 for x in (first, second, third)]
    assert engines[0].prompts[0] == engines[1].prompts[0]
    other = [Engine(50, [])]
    chats.play(other, kind, "another", 5, None, lambda choose: choose.random(), (0,))
    assert other[0].prompts[0] != engines[0].prompts[0]


def test_a_request_without_an_answer_is_an_error() -> None:
    class Silent(Engine):
        def step(self) -> list[Any]:
            super().step()
            return []

    with pytest.raises(RuntimeError, match="not answered"):
        chats.ask(Silent(1, []), {"prompt_token_ids": [1]}, None)


def test_ratios_of_chats_are_taken_within_a_round() -> None:
    def run(number: int, chat: str, retain: int | None, *first: float) -> dict[str, Any]:
        turns = [Turn(seconds, 2 * seconds, 100, 40, [9] * 8) for seconds in first]
        return {"round": number, "chat": chat, "retain": retain, **chats.summary(turns)}

    runs = [
        *(run(0, "picture", None, 4.0, 1.0), run(0, "picture", 64, 1.0, 1.0)),
        # The machine is half as fast in this round; the next one was stopped before the budget's turn.
        *(
            run(1, "picture", 64, 2.0, 3.0),
            run(1, "picture", None, 8.0, 2.0),
            run(2, "picture", None, 9.0, 9.0),
        ),
        *(run(0, "single", None, 2.0), run(0, "single", 64, 0.5), run(0, "single", 192, 1.0)),
    ]
    kinds = chats.kinds(1500)
    picture, wide, narrow = figures.chats(runs, kinds)
    assert (picture["chat"], picture["retain"], picture["rounds"]) == ("one picture", 64, 2)
    assert picture["cpu"] == picture["wall"] == pytest.approx((0.4 + 0.5) / 2)
    assert (picture["lowest"], picture["highest"]) == (pytest.approx(0.4), pytest.approx(0.5))
    assert (picture["first_turn"], picture["later_turns"]) == (pytest.approx(0.25), pytest.approx(1.25))
    assert (picture["prompt"], picture["cached"], picture["answered"]) == (200, 80, 32)
    assert [(row["retain"], row["cpu"], row["later_turns"]) for row in (wide, narrow)] == [
        (192, 0.5, None),
        (64, 0.25, None),
    ]
    page = presenting.chats({"model": "m"}, [{"command": "c"}], [picture, narrow], {64: 0.2})
    assert (
        "| one picture | 64 | 2 | 15.00 s | 7.00 s | 0.450 | 0.400 to 0.500 | 0.250 | 1.250 | 0.450 |" in page
    )
    assert "| a single question | 64 | 1 | 4.00 s | 1.00 s | 0.250 | 0.250 to 0.250 |  |  | 0.250 |" in page
    assert "at least 0.200 at 64:" in page


def test_the_limit_of_a_question_has_whole_blocks_and_its_text() -> None:
    shape = Shape.parse("layers=8,hidden=512,ffn=1408,visual=576,text=30")
    method = SparseVLMPlus(64)
    assert figures.block_limit(shape, method, 1) == pytest.approx(1 / figures.limits(shape, method, 1)[0])
    tokens = [606, *[160 + 30], *[96 + 30] * 2, *[64 + 30] * 4]  # 576 less a multiple of 32
    share = shape.decoder.prefill_macs(tokens) / shape.decoder.prefill_macs([606] * 8)
    assert figures.block_limit(shape, method, 32) == pytest.approx(share)
