"""Requests on their way through vLLM's front end, with stand-ins for it."""

from __future__ import annotations

import asyncio
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from sparsesight.vllm import admission
from sparsesight.vllm import unsent as unsent_pictures
from sparsesight.vllm.admission import FrontEnd
from sparsesight.vllm.metrics import COUNTERS, Metrics
from sparsesight.vllm.requests import BY_REQUEST, Outcome, Rule
from sparsesight.vllm.unsent import Unsent

from .test_requests import SERVER, chat, config, params

with_vllm = pytest.mark.vllm


class Cache:
    """vLLM's front end's memory of what was sent: a picture is data the first time, and None from then on."""

    def __init__(self) -> None:
        self.sent: set[str] = set()

    def render(self, name: str) -> Any:
        item = None if name in self.sent else f"pixels of {name}"
        self.sent.add(name)
        return {"mm_kwargs": {"image": [item]}, "mm_hashes": {"image": [name]}}

    def invalidate(self, name: str) -> None:
        self.sent.discard(name)


def item(prompt: Any) -> Any:
    return prompt["mm_kwargs"]["image"][0]


def test_a_picture_of_a_refused_request_reaches_the_engine_with_the_next() -> None:
    cache, unsent = Cache(), Unsent()
    refused, before, other = cache.render("a"), cache.render("a"), cache.render("b")
    assert item(before) is None  # vLLM takes it to be sent
    unsent.refuse(cache, refused)
    for prompt in (before, other):
        unsent.complete(prompt)
    assert item(before) == "pixels of a" and item(other) == "pixels of b"
    assert item(cache.render("a")) == "pixels of a"  # rendered afterwards


def test_pictures_are_held_between_rendering_and_sending(
    front_end: FrontEnd, counted: dict[str, float]
) -> None:
    """In between vLLM refuses what is too long, or has parameters that contradict each other."""
    cache = Cache()
    renderer = SimpleNamespace(mm_processor_cache=cache, sparsesight=front_end)
    owner, request = SimpleNamespace(renderer=renderer), SimpleNamespace(vllm_xargs=None, model_extra=None)

    def rendered(name: str, *, chats: bool = True) -> Any:
        async def inner(request: Any) -> Any:
            prompts = [chat(5, -576, 9) | cache.render(name)]
            return ([], prompts) if chats else prompts

        made = asyncio.run(admission._preprocess(inner, owner, request))
        return made[1][0] if chats else made[0]

    def send(prompt: Any) -> Any:
        admission._process_inputs(lambda *given: None, owner, "id", prompt, params(None))
        return item(prompt)

    rendered("a")  # refused, and nobody says so
    assert send(rendered("a", chats=False)) == "pixels of a"
    assert not front_end.unsent._items
    assert send(rendered("a")) is None  # the engine has it
    rendered("b")
    front_end.unsent.SECONDS = -1.0  # type: ignore[misc]  # time passes
    assert send(rendered("b")) == "pixels of b"


@pytest.mark.parametrize("why", ["too long", "in parts"])
def test_pictures_of_what_is_refused_last_reach_the_engine_as_well(
    front_end: FrontEnd, counted: dict[str, float], why: str
) -> None:
    """vLLM itself refuses a prompt that is too long, and we one in parts, when both have been admitted."""
    cache = Cache()
    owner = SimpleNamespace(renderer=SimpleNamespace(mm_processor_cache=cache, sparsesight=front_end))
    refused, beside = (chat(5, -576, 9) | cache.render("a") for _ in range(2))
    assert item(refused) and item(beside) is None

    def inner(*given: Any, **named: Any) -> None:
        if given[1] is refused:
            raise Refused("too long", "")

    with pytest.raises(Refused, match=why):
        resumable = {"resumable": True} if why == "in parts" else {}
        admission._process_inputs(inner, owner, "id", refused, params(None), **resumable)
    admission._process_inputs(inner, owner, "id", beside, params(None))
    assert item(beside) == item(refused)
    assert item(cache.render("a"))


def test_a_refusal_forgets_nothing_that_was_sent() -> None:
    cache, unsent = Cache(), Unsent()
    cache.render("a")
    refused = cache.render("a")
    unsent.refuse(cache, refused)
    assert "a" in cache.sent
    unsent.complete(refused)
    assert item(refused) is None


def test_pictures_are_kept_for_a_short_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(unsent_pictures, "time", SimpleNamespace(monotonic=lambda: now[0]))
    cache, unsent = Cache(), Unsent()
    for i in range(2 * Unsent.ITEMS):
        unsent.refuse(cache, cache.render(str(i)))
    assert len(unsent._items) == Unsent.ITEMS
    now[0] = Unsent.SECONDS + 1
    unsent.expire()
    assert not unsent._items and not cache.sent


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What is counted, instead of in Prometheus."""
    found: dict[str, float] = {}

    def add(self: Metrics, name: str, amount: float = 1, **labels: str) -> None:
        assert tuple(labels) == COUNTERS[name][1]
        found[" ".join((name, *labels.values()))] = found.get(" ".join((name, *labels.values())), 0) + amount

    monkeypatch.setattr(Metrics, "_add", add)
    return found


class Refused(Exception):
    """In place of vLLM's VLLMValidationError."""

    def __init__(self, message: str, parameter: str) -> None:
        super().__init__(message)


@pytest.fixture
def front_end(monkeypatch: pytest.MonkeyPatch) -> FrontEnd:
    rule = Rule.of(config(SERVER))
    assert rule is not None
    monkeypatch.setitem(sys.modules, "vllm.exceptions", SimpleNamespace(VLLMValidationError=Refused))
    return FrontEnd(rule, "model")


def test_what_becomes_of_requests_is_counted_once(front_end: FrontEnd, counted: dict[str, float]) -> None:
    renderer = SimpleNamespace(mm_processor_cache=None, sparsesight=front_end)
    prompt, sampling = chat(5, -576, 9), params(None)
    kept = front_end.admit(renderer, prompt, sampling)
    assert not counted
    seen: list[Any] = []
    owner = SimpleNamespace(renderer=renderer)
    for given in (sampling, params({"sparsesight_retain": "none"})):
        admission._process_inputs(lambda *x: seen.append(x), owner, "id", prompt, given)
    with pytest.raises(Refused, match="sent in parts"):
        admission._process_inputs(
            lambda *x, **y: seen.append(x), owner, "id", prompt, sampling, resumable=True
        )
    assert len(seen) == 2 and kept is not None
    assert counted == {
        "prompts_pruned": 1,
        "visual_tokens": 576,
        "visual_tokens_kept": kept.kept,
        f"prompts_unpruned {BY_REQUEST}": 1,
    }
    with pytest.raises(Refused, match="sparsesight_retain 'x'"):
        front_end.admit(renderer, prompt, params({"sparsesight_retain": "x"}))
    assert counted["requests_refused"] == 1


def test_hits_are_counted_from_the_first_picture_on(counted: dict[str, float]) -> None:
    closed: list[bool] = []

    async def outputs() -> Any:
        try:
            for cached in (None, 160, 160):
                yield SimpleNamespace(num_cached_tokens=cached)
        finally:
            closed.append(True)

    async def ask(upto: int) -> int:
        told = admission._counting_hits(outputs(), Metrics("m"), Outcome(576, 100, "fastv", 9.0, (9,)))
        seen = 0
        async for _ in told:
            seen += 1
            if seen == upto:
                break
        await told.aclose()  # type: ignore[attr-defined]
        return seen

    assert asyncio.run(ask(9)) == 3 and counted == {"prefix_cache_hit_tokens": 60} and closed == [True]
    assert asyncio.run(ask(1)) == 1 and closed == [True, True]  # a client that has gone


def test_beams_are_asked_at_the_budget_of_the_request() -> None:
    asked: list[Any] = []

    class Serving:
        engine_client = SimpleNamespace(generate=lambda *x: asked.append(x[1].extra_args), processor=1)
        renderer = SimpleNamespace(sparsesight=None)

        def beam_search(self, prompt: Any, request_id: str, params: Any) -> None:
            assert self.engine_client.processor == 1
            self.engine_client.generate(prompt, SimpleNamespace(extra_args=None), request_id)

    class Request:
        vllm_xargs: Any = None

        def to_beam_search_params(self) -> Any:
            return SimpleNamespace()

    admission._wrap(Serving, "beam_search", admission._beam_search)
    admission._wrap(Request, "to_beam_search_params", admission._to_beam_search_params)
    serving, request = Serving(), Request()
    own = serving.engine_client
    for arguments in (None, {"other": 1}, {"sparsesight_retain": 64, "other": 1}):
        request.vllm_xargs = arguments
        serving.beam_search("prompt", "id", request.to_beam_search_params())
    assert asked == [None, None, {"sparsesight_retain": 64}]
    assert serving.engine_client is own


class TestWithVllm:
    pytestmark = with_vllm

    def test_counters_are_on_the_page(self) -> None:
        from prometheus_client import generate_latest
        from vllm.v1.metrics.prometheus import get_prometheus_registry

        metrics = Metrics("a model")
        metrics.count(Outcome(576, 5, "sparsevlm+", 64.0, (303, 110, 36)))
        metrics.count(Outcome(576, 5, reason=BY_REQUEST))
        metrics.cached(Outcome(576, 5, "sparsevlm+", 64.0, (303, 110, 36)), 21)
        metrics.refuse()
        page = generate_latest(get_prometheus_registry()).decode()
        for line in (
            'sparsesight:prompts_pruned_total{model_name="a model"} 1.0',
            'sparsesight:visual_tokens_total{model_name="a model"} 576.0',
            'sparsesight:visual_tokens_kept_total{model_name="a model"} 64.0',
            f'sparsesight:prompts_unpruned_total{{model_name="a model",reason="{BY_REQUEST}"}} 1.0',
            'sparsesight:prefix_cache_hit_tokens_total{model_name="a model"} 16.0',
            'sparsesight:requests_refused_total{model_name="a model"} 1.0',
        ):
            assert line in page, page

    def test_vllms_own_caches_agree_after_a_refusal(self) -> None:
        """A request that was rendered while another one with the same new picture was refused finds its picture."""
        import torch
        from vllm.multimodal.cache.lru import LruKeyReplicatedReceiverCache, LruKeyReplicatedSenderCache
        from vllm.multimodal.inputs import (
            MultiModalBatchedField,
            MultiModalFeatureSpec,
            MultiModalFieldElem,
            MultiModalKwargsItem,
        )

        element = MultiModalFieldElem(data=torch.ones(2), field=MultiModalBatchedField())
        settings = SimpleNamespace(mm_processor_cache_gb=1)
        model: Any = SimpleNamespace(get_multimodal_config=lambda: settings)
        sender, receiver = LruKeyReplicatedSenderCache(model), LruKeyReplicatedReceiverCache(model)

        def render() -> Any:
            (found,) = sender.get_and_update(
                [(MultiModalKwargsItem({"pixel_values": element}), [])], ["hash"]
            )
            return {"mm_kwargs": {"image": [found[0]]}, "mm_hashes": {"image": ["hash"]}}

        def engine(prompt: Any) -> Any:
            feature = MultiModalFeatureSpec(item(prompt), "image", "hash", None)  # type: ignore[arg-type]
            return receiver.get_and_update_features([feature])[0].data

        refused, good = render(), render()
        assert item(good) is None
        unsent = Unsent()
        unsent.refuse(sender, refused)
        with pytest.raises(Exception, match="cache drift"):
            engine(good)
        unsent.complete(good)
        assert engine(good) is item(refused)
        assert engine(render()) is not None
