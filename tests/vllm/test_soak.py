"""That the soak would see what goes wrong: its requests, and its judgement of what comes back."""

from __future__ import annotations

import asyncio
from importlib.util import find_spec
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.soak.pool import ANSWERED, REFUSED, SHARES, Case, fresh, pool, sequence, with_answers

COUNTS = (200, 100, 50)
CASE = Case("what", "text", {})
REFUSAL = Case("broken", "malformed", {}, "image")
SOLO = {"what": (["a", "b"], [-0.5, -0.25])}


def test_the_requests_are_the_same_every_time_and_of_every_kind() -> None:
    cases = pool(0, COUNTS)
    assert cases == pool(0, COUNTS) != pool(1, COUNTS)
    assert set(cases) == set(SHARES) - {"fresh picture"} and abs(sum(SHARES.values()) - 1) < 1e-9
    names = [case.name for kind in ANSWERED for case in cases[kind]]
    assert len(names) == len(set(names))  # an answer is known by its name
    assert all(case.reason for kind in REFUSED for case in cases.get(kind, ()))
    sent = sequence(cases, 2000, 0)
    assert sent == sequence(cases, 2000, 0)
    assert len(sent) == 2000 and {case.kind for case in sent} == {*SHARES, "refused late"}
    new = [case for case in sent if case.name.startswith("fresh")]
    assert len({case.name for case in new}) == len(new) > 50


def test_a_new_picture_comes_with_a_refused_request_for_it() -> None:
    kinds = set()
    for number in range(30):
        pair = fresh(number, Random(number))
        (good,) = (case for case in pair if not case.reason)
        (refused,) = (case for case in pair if case.reason)
        kinds.add((refused.kind, pair.index(refused)))
        shown = [case.body["messages"][0]["content"][0]["image_url"]["url"] for case in pair]
        assert shown[0] == shown[1] and good.kind == "fresh picture"
    assert kinds == {(kind, i) for kind in ("no budget", "refused late", "oversized") for i in (0, 1)}


def test_a_chat_holds_the_answers_of_the_turns_before() -> None:
    first, second, third = pool(0, COUNTS)["chat"][:3]
    solo = {first.name: ([" a", " b"], []), second.name: ([" c"], [])}
    messages = with_answers(third, solo).body["messages"]
    assert [x["content"] for x in messages if x["role"] == "assistant"] == [" a b", " c"]
    assert with_answers(first, {}).body == first.body


def judged(case: Case, tokens: list[str] | Exception, numbers: list[float] = [-0.5, -0.25]) -> Any:  # noqa: B006
    """The outcome if a server says ``tokens``, or fails."""
    from benchmarks.soak.asking import outcome

    async def create(**body: Any) -> Any:
        if isinstance(tokens, Exception):
            raise tokens
        content = [SimpleNamespace(token=t, logprob=x) for t, x in zip(tokens, numbers, strict=True)]
        choice = SimpleNamespace(logprobs=SimpleNamespace(content=content))
        usage = SimpleNamespace(prompt_tokens_details=SimpleNamespace(cached_tokens=33))
        return SimpleNamespace(choices=[choice], usage=usage)

    client = SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=create)))
    whole = SimpleNamespace(random=lambda: 1.0)  # not streamed
    return asyncio.run(outcome(client, case, SOLO, whole))


def status(code: int, message: str) -> Exception:
    import httpx
    import openai

    response = httpx.Response(code, request=httpx.Request("POST", "http://127.0.0.1"))
    return openai.APIStatusError(message, response=response, body=None)


@pytest.mark.vllm
@pytest.mark.skipif(find_spec("openai") is None, reason="openai is not installed")
@pytest.mark.skipif(find_spec("psutil") is None, reason="psutil is not installed")
def test_a_leak_is_seen_in_the_second_half_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    # As a script it finds its parts beside it.
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    from benchmarks.soak.report import GROWTH, memory_growth

    def samples(kb: float) -> list[dict[str, float]]:
        """A server of 3 GB that warms up over 40 % of the requests, then takes so much for each."""
        return [
            {"done": done, "rss_mb": 3000 + min(done, 800) + kb * max(0, done - 800) / 1000 + 0.3 * (i % 2)}
            for i, done in enumerate(range(0, 2001, 25))
        ]

    steady, leaking = memory_growth(samples(0.0)), memory_growth(samples(1.5 * GROWTH))
    assert steady == pytest.approx(0, abs=0.1)
    assert leaking == pytest.approx(1.5 * GROWTH, abs=0.1) and leaking > GROWTH
    assert memory_growth(samples(0.0)[:2]) is None
    assert memory_growth([{"done": 7, "rss_mb": 3000.0}] * 9) is None  # nothing was answered any more


@pytest.mark.vllm
@pytest.mark.skipif(find_spec("openai") is None, reason="openai is not installed")
def test_rounds_add_up_over_servers(tmp_path: Path) -> None:
    from benchmarks.soak.asking import Outcome
    from benchmarks.soak.journal import Journal

    path, soak = tmp_path / "rounds.jsonl", {"requests": 4}
    one = Outcome("what", "text", 200, 0.5)
    first = Journal.opened(path, soak)
    first.know(SOLO)
    first.add("a", 3.0, {"n": 2.0}, {0: one})
    first.add("a", 4.0, {"n": 5.0}, {2: one})
    with path.open("a") as file:
        file.write('{"soak": {"requ')  # ended while it wrote
    again = Journal.opened(path, soak)
    again.add("b", 1.5, {"n": 1.0}, {1: Outcome("no", "malformed", 400, 0.1)})
    again = Journal.opened(path, soak)
    assert again.outcomes.keys() == {0, 1, 2} and again.outcomes[2] == one
    assert (again.servers, again.seconds, again.numbers) == ({"a": 2, "b": 1}, 8.5, {"n": 6.0})
    assert again.solo == SOLO
    with pytest.raises(ValueError, match="another soak"):
        Journal.opened(path, {"requests": 5})


@pytest.mark.vllm
@pytest.mark.skipif(find_spec("openai") is None, reason="openai is not installed")
class TestJudgement:
    def test_right_ones_pass(self) -> None:
        assert not judged(CASE, ["a", "b"]).wrong
        near = judged(CASE, ["a", "b"], [-0.5004, -0.25])
        assert not near.wrong and near.deviation == pytest.approx(4e-4)
        refused = judged(REFUSAL, status(400, "cannot identify image file"))
        assert not refused.wrong and refused.status == 400

    def test_an_answer_that_nobody_knows_yet_is_kept(self) -> None:
        new = judged(Case("new", "fresh picture", {}), ["a", "c"])
        assert new.found == (["a", "c"], [-0.5, -0.25]) and new.cached == 33 and not new.wrong

    def test_wrong_ones_do_not(self) -> None:
        assert "in place of" in judged(CASE, ["a", "c"]).wrong
        assert "in place of" in judged(CASE, ["a"], [-0.5]).wrong
        assert "in place of" in judged(CASE, ["a", "b"], [-0.5, -0.3]).wrong
        assert "status 400" in judged(CASE, status(400, "image")).wrong
        assert "should have been refused" in judged(REFUSAL, ["a", "b"]).wrong
        assert "status 500" in judged(REFUSAL, status(500, "image")).wrong
        assert "status 400" in judged(REFUSAL, status(400, "no")).wrong

    def test_a_refusal_after_the_status_is_wrong(self) -> None:
        import httpx
        import openai

        request = httpx.Request("POST", "http://127.0.0.1")
        late = openai.APIError("no image", request, body={"message": "no image", "code": 400})
        assert "no image" in judged(REFUSAL, late).wrong and judged(REFUSAL, late).status == -1

    def test_a_connection_that_breaks_is_wrong(self) -> None:
        import httpx
        import openai

        broken = openai.APIConnectionError(request=httpx.Request("POST", "http://127.0.0.1"))
        assert judged(CASE, broken).wrong and judged(REFUSAL, broken).wrong
