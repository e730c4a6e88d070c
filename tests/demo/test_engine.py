"""Answers of the engine are those of the library, alone and in company."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Iterator
from threading import Event, Thread

import pytest
import torch
from PIL import Image

from sparsesight import bundled
from sparsesight.demo import engine as engine_module
from sparsesight.demo.engine import Engine, StreamedAnswer, Streamer
from sparsesight.demo.running import Stopped
from sparsesight.errors import SparseSightError
from sparsesight.hf.loading import load_model
from sparsesight.methods import Method, make_method
from tests.commands.command_line import PICTURE, QUESTION, independent

IMAGE = Image.open(PICTURE).convert("RGB")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    made = Engine(load_model(), max_new_tokens=4)
    yield made
    made.close()


def answered(
    engine: Engine, question: str = QUESTION, method: Method | None = None, **more: int
) -> list[StreamedAnswer]:
    return [x for x in engine.ask(IMAGE, question, method, Event(), **more) if x is not None]


@pytest.mark.parametrize("method", [None, "sparsevlm+", "sparsevlm"])
def test_answers_and_kept_tokens_are_those_of_the_library(engine: Engine, method: str | None) -> None:
    question = "What is left of the orange card?"
    options = {} if method is None else {"retain": (150, 80, 40), "layers": (0, 2, 4)}
    text, kept = independent(question, method, **options)
    chosen = None if method is None else make_method(method, **options)
    speeches = answered(engine, question, chosen)
    last = speeches[-1]
    assert last.text == text and last.done and last.method == chosen
    assert [x.tokens for x in speeches] == [*range(1, last.tokens + 1), last.tokens]
    assert all(last.text.startswith(x.text.strip()) for x in speeches)
    assert len(text.split()) == 2 and speeches[0].text == text.split()[0]  # it came word by word
    if method is None:
        assert last.pruned is None
    else:
        assert last.pruned is not None and last.pruned.kept == kept
        assert chosen is not None and last.pruned.report.method == chosen.to_dict()


def test_a_budget_that_costs_the_same(engine: Engine) -> None:
    speech = answered(engine, method=make_method("fastv"), equal_to=192)[-1]
    reference = answered(engine, method=make_method("sparsevlm+", retain=192))[-1]
    assert speech.pruned is not None and reference.pruned is not None
    assert speech.pruned.report.macs_sparse == pytest.approx(reference.pruned.report.macs_sparse, rel=0.01)


def test_the_model_is_left_as_it_was(engine: Engine) -> None:
    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in engine.loaded.model.modules())

    answered(engine)  # transformers adds hooks of its own
    before = hooks()
    answered(engine, method=make_method("sparsevlm+"))
    assert hooks() == before


def test_a_stop_in_the_middle_of_a_prefill(engine: Engine) -> None:
    stop, entered = Event(), []

    def look(*_: object) -> None:
        entered.append(1)
        stop.set()

    layers = engine.loaded.model.get_decoder().layers
    hook = layers[2].register_forward_pre_hook(look)
    after = layers[4].register_forward_pre_hook(lambda *_: pytest.fail("it went on"))
    with pytest.raises(Stopped):
        list(engine.ask(IMAGE, QUESTION, make_method("sparsevlm+"), stop))
    hook.remove()
    after.remove()
    assert entered == [1]
    assert answered(engine)[-1].text == independent(QUESTION)[0]
    assert (
        answered(engine, method=make_method("sparsevlm+"))[-1].text == independent(QUESTION, "sparsevlm+")[0]
    )


def test_a_stop_in_the_middle_of_the_vision_tower(engine: Engine) -> None:
    stop = Event()
    layers = engine.loaded.model.model.vision_tower.encoder.layers
    hook = layers[0].register_forward_pre_hook(lambda *_: stop.set())
    after = layers[1].register_forward_hook(lambda *_: pytest.fail("it went on"))
    with pytest.raises(Stopped):
        list(engine.ask(IMAGE, QUESTION, None, stop))
    hook.remove()
    after.remove()
    assert answered(engine)[-1].done


def test_a_prompt_is_bounded_in_tokens(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        SparseSightError, match=r"tokens, more than the limit of 1,024: ask something shorter"
    ):
        answered(engine, "\N{GRINNING FACE}" * 1_000)  # the model's own context
    monkeypatch.setattr(engine_module, "MAX_PROMPT", 576)
    with pytest.raises(SparseSightError, match=r"more than the limit of 576"):
        answered(engine)


def test_an_error_of_a_run_keeps_no_picture(engine: Engine) -> None:
    """Not even until the garbage collector comes round: its traceback is in no cycle."""
    gc.disable()
    try:
        picture = IMAGE.copy()
        gone = weakref.ref(picture)
        stream = engine.ask(picture, "Is <image> red?", None, Event())
        with contextlib.suppress(SparseSightError):
            list(stream)
        del picture, stream
        assert answered(engine)[-1].done  # the thread has other things in hand
        assert gone() is None
    finally:
        gc.enable()


def test_two_users_at_once_do_not_mix(engine: Engine) -> None:
    """Different questions, methods and budgets, all under way together."""
    asked = [
        ("What letter is on the white card?", make_method("sparsevlm+", retain=128)),
        ("What is left of the orange card?", make_method("sparsevlm", retain=192)),
        ("Where is the green ring?", None),
        ("How many cards are there?", make_method("uniform", retain=64)),
    ]
    alone = [answered(engine, question, method)[-1] for question, method in asked]
    together: dict[int, list[StreamedAnswer]] = {}

    def user(i: int) -> None:
        together[i] = [answered(engine, *asked[i])[-1] for _ in range(2)]

    users = [Thread(target=user, args=(i,)) for i in range(len(asked))]
    for thread in users:
        thread.start()
    for thread in users:
        thread.join()
    for i, expected in enumerate(alone):
        for found in together[i]:
            assert found.text == expected.text
            assert (found.pruned and found.pruned.kept) == (expected.pruned and expected.pruned.kept)


def test_what_is_refused_is_told_and_the_next_answer_comes(engine: Engine) -> None:
    with pytest.raises(SparseSightError, match="retain=1"):
        answered(engine, method=make_method("sparsevlm+", retain=1, layers=(5,)))
    with pytest.raises(SparseSightError, match="'<image>'"):
        answered(engine, "Is <image> red?")
    assert answered(engine)[-1].text == independent(QUESTION)[0]


def test_visual_tokens(engine: Engine) -> None:
    assert engine.visual_tokens(Image.open(bundled.pictures()[1])) == 576


def test_characters_of_several_tokens_are_held_back_until_they_are_whole() -> None:
    class Tokenizer:
        def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
            return bytes(ids).decode(errors="replace")

    told: list[str] = []
    streamer = Streamer(Tokenizer(), lambda speech: told.append(speech.text))
    streamer.put(torch.tensor([[1, 2, 3]]))  # the prompt
    for byte in "aé".encode():
        streamer.put(torch.tensor([byte]))
    assert told == ["a", "a", "aé"]
