"""A response header that says what became of a request's visual tokens, added by middleware of vLLM's server.

``x-sparsesight: sparsevlm+; visual=576; kept=84.0; counts=160,96,64``, or ``unpruned; visual=576; reason="..."``.
It is absent where a request has no visual tokens. ``serve`` passes ``--middleware
sparsesight.vllm.headers.OutcomeHeader``.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from .requests import Outcome

NAME = b"x-sparsesight"
MIDDLEWARE = f"{__name__}.OutcomeHeader"
_OUTCOMES: ContextVar[list[Outcome] | None] = ContextVar("sparsesight_outcomes", default=None)


def note(outcome: Outcome) -> None:
    """Note an outcome for the response that is being made, if there is one."""
    found = _OUTCOMES.get()
    if found is not None and outcome not in found:
        found.append(outcome)


def value_of(outcome: Outcome) -> str:
    """An outcome as the value of the header."""
    if outcome.reason:
        return f'unpruned; visual={outcome.visual}; reason="{outcome.reason}"'
    counts = ",".join(map(str, outcome.counts))
    return f"{outcome.method}; visual={outcome.visual}; kept={outcome.kept:.1f}; counts={counts}"


class OutcomeHeader:
    """ASGI middleware that adds the header; the outcome is known before a response begins, also of a stream."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # Tasks that the server starts for the request copy the context, and with it this list.
        outcomes: list[Outcome] = []
        token = _OUTCOMES.set(outcomes)

        async def send_with_header(message: Any) -> None:
            if message["type"] == "http.response.start" and outcomes:
                value = ", ".join(map(value_of, outcomes)).encode("latin-1")
                message = {**message, "headers": [*message.get("headers", ()), (NAME, value)]}
            await send(message)

        try:
            await self.app(scope, receive, send_with_header)
        finally:
            _OUTCOMES.reset(token)
