"""What a response says of its request, and pictures that cannot be read."""

from __future__ import annotations

import asyncio
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from sparsesight.vllm import admission, headers
from sparsesight.vllm.requests import BY_REQUEST, Outcome


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        (ConnectionError("refused"), "4xx"),
        (TimeoutError(), "4xx"),
        (SyntaxError("broken PNG"), "4xx"),
        (ValueError("no base64"), "as it is"),
    ],
)
def test_a_picture_that_cannot_be_read_is_the_clients_error(
    raised: Exception, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class VLLMError(Exception):
        pass

    class Unprocessable(VLLMError):
        def __init__(self, message: str, parameter: str) -> None:
            super().__init__(message)

    errors = SimpleNamespace(VLLMError=VLLMError, VLLMUnprocessableEntityError=Unprocessable)
    monkeypatch.setitem(sys.modules, "vllm.exceptions", errors)

    class Connector:
        def load_from_url(self, url: str) -> None:
            raise raised

        async def load_from_url_async(self, url: str) -> None:
            raise raised

    admission._wrap(Connector, "load_from_url", admission._load)
    admission._wrap(Connector, "load_from_url_async", admission._load_async)
    wanted = Unprocessable if status == "4xx" else type(raised)
    with pytest.raises(wanted):
        Connector().load_from_url("http://x")
    with pytest.raises(wanted):
        asyncio.run(Connector().load_from_url_async("http://x"))


def test_a_response_says_what_became_of_its_request() -> None:
    pruned = Outcome(576, 5, "sparsevlm+", 64.0, (303, 110, 36))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def handler() -> None:  # servers answer in tasks of their own
            for outcome in scope["outcomes"]:
                headers.note(outcome)

        await asyncio.create_task(handler())
        await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
        await send({"type": "http.response.body", "body": b""})

    def answer(*outcomes: Outcome, kind: str = "http") -> dict[bytes, bytes]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        asyncio.run(headers.OutcomeHeader(app)({"type": kind, "outcomes": outcomes}, None, send))
        assert sent[1] == {"type": "http.response.body", "body": b""}
        return dict(sent[0]["headers"])

    assert answer() == answer(pruned, kind="lifespan") == {b"a": b"b"}
    value = b"sparsevlm+; visual=576; kept=64.0; counts=303,110,36"
    assert answer(pruned, pruned)[headers.NAME] == value
    kept = Outcome(64, 5, reason=BY_REQUEST)
    other = b'unpruned; visual=64; reason="the request keeps every token"'
    assert answer(pruned, kept)[headers.NAME] == value + b", " + other
    headers.note(pruned)  # where nothing is being answered
    assert headers.MIDDLEWARE.rpartition(".")[2] == headers.OutcomeHeader.__name__
