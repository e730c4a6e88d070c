"""Wraps vLLM's front end where it admits requests: bad ones become HTTP 4xx, all are counted.

vLLM has no hook for this. The methods are wrapped once a process makes an engine with sparsesight; other engines of the
process pass through.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from functools import partial, wraps
from typing import Any

from ..errors import SparseSightError
from . import headers
from .config import REQUEST_KEY
from .metrics import Metrics
from .requests import Outcome, Rule, check_arguments, outcome_of
from .unsent import Unsent


class FrontEnd:
    """What the front end of one engine needs to admit its requests.

    Args:
        rule: of the server.
        model: its name.
    """

    def __init__(self, rule: Rule, model: str) -> None:
        self.rule = rule
        self.metrics = Metrics(model)
        self.unsent = Unsent()
        self._last: tuple[Any, Any, Outcome | None] = (None, None, None)

    def before_rendering(self, request: Any) -> None:
        """Refuse a request whose arguments are invalid, while its pictures have not been touched."""
        self.unsent.expire()
        self._refusing(partial(check_arguments, self.rule, request))

    def admit(self, renderer: Any, prompt: Any, params: Any) -> Outcome | None:
        """What becomes of a rendered request.

        Raises:
            VLLMValidationError: it is refused.
        """
        seen, with_params, outcome = self._last
        if seen is prompt and with_params is params:  # a server's requests come by twice
            return outcome
        try:
            outcome = self._refusing(partial(outcome_of, self.rule, prompt, params))
        except Exception:
            self.unsent.refuse(renderer.mm_processor_cache, prompt)
            raise
        self._last = prompt, params, outcome
        return outcome

    def _refusing(self, check: Callable[[], Any]) -> Any:
        from vllm.exceptions import VLLMValidationError

        try:
            return check()
        except SparseSightError as error:
            self.metrics.refuse()
            raise VLLMValidationError(str(error), parameter=REQUEST_KEY) from error


def install() -> None:
    """Wrap vLLM's front end; a second call changes nothing."""
    from vllm.entrypoints.generate.beam_search.online import BeamSearchOnlineMixin
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest
    from vllm.multimodal.media.connector import MediaConnector
    from vllm.renderers.online_renderer import OnlineRenderer
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.input_processor import InputProcessor

    for name in ("preprocess_chat", "preprocess_cmpl"):
        _wrap(OnlineRenderer, name, _preprocess)
    _wrap(AsyncLLM, "generate", _generate)
    _wrap(InputProcessor, "process_inputs", _process_inputs)
    for kind in (ChatCompletionRequest, CompletionRequest):
        _wrap(kind, "to_beam_search_params", _to_beam_search_params)
    _wrap(BeamSearchOnlineMixin, "beam_search", _beam_search)
    _wrap(MediaConnector, "load_from_url", _load)
    _wrap(MediaConnector, "load_from_url_async", _load_async)


def _wrap(owner: Any, name: str, around: Callable[..., Any]) -> None:
    inner = getattr(owner, name)
    if hasattr(inner, "sparsesight"):
        return

    @wraps(inner)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return around(partial(inner, self), self, *args, **kwargs)

    method.sparsesight = True  # type: ignore[attr-defined]
    setattr(owner, name, method)


def front_end_of(renderer: Any) -> FrontEnd | None:
    """What is known for the engine that a renderer belongs to; None without sparsesight. It is read once."""
    found = vars(renderer)
    if "sparsesight" not in found:
        rule = Rule.of(renderer.config)
        name = renderer.config.model_config.served_model_name
        found["sparsesight"] = (
            None if rule is None else FrontEnd(rule, name[0] if isinstance(name, list) else name)
        )
    front_end: FrontEnd | None = found["sparsesight"]
    return front_end


def _preprocess(inner: Callable[..., Any], self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
    front_end = front_end_of(self.renderer)
    if front_end is None:
        return inner(request, *args, **kwargs)
    front_end.before_rendering(request)
    return _holding(front_end.unsent, self.renderer, inner(request, *args, **kwargs))


async def _holding(unsent: Unsent, renderer: Any, rendering: Any) -> Any:
    """Await what vLLM renders: prompts, or messages and prompts."""
    made = await rendering
    for prompt in made[1] if isinstance(made, tuple) else made:
        unsent.hold(renderer.mm_processor_cache, prompt)
    return made


def _generate(
    inner: Callable[..., Any], self: Any, prompt: Any, params: Any, *args: Any, **kwargs: Any
) -> Any:
    """A server calls ``generate`` before it answers, and what that raises becomes the status."""
    front_end = front_end_of(self.renderer)
    if front_end is None or not isinstance(prompt, Mapping):  # a server's prompt is rendered
        return inner(prompt, params, *args, **kwargs)
    outcome = front_end.admit(self.renderer, prompt, params)
    outputs = inner(prompt, params, *args, **kwargs)
    if outcome is None:
        return outputs
    headers.note(outcome)
    return outputs if outcome.reason else _counting_hits(outputs, front_end.metrics, outcome)


async def _counting_hits(outputs: Any, metrics: Metrics, outcome: Outcome) -> AsyncIterator[Any]:
    counted = False
    try:
        async for output in outputs:
            if not counted and output.num_cached_tokens is not None:
                metrics.cached(outcome, output.num_cached_tokens)
                counted = True
            yield output
    finally:
        await outputs.aclose()  # which is how vLLM learns that a client has gone


def _process_inputs(
    inner: Callable[..., Any], self: Any, request_id: str, prompt: Any, params: Any, *args: Any, **kwargs: Any
) -> Any:
    """Every request passes here once, also those of engines without a server."""
    front_end = front_end_of(self.renderer)
    if front_end is None:
        return inner(request_id, prompt, params, *args, **kwargs)
    outcome = front_end.admit(self.renderer, prompt, params)
    front_end.unsent.complete(prompt)
    try:
        if outcome is not None and not outcome.reason and kwargs.get("resumable"):
            from vllm.exceptions import VLLMValidationError

            raise VLLMValidationError(
                "a prompt that is sent in parts cannot be pruned, as its next part would change what is kept: "
                f"send it whole, or with {REQUEST_KEY} 'none'",
                parameter=REQUEST_KEY,
            )
        made = inner(request_id, prompt, params, *args, **kwargs)
    except Exception:  # also what vLLM itself refuses
        front_end.unsent.refuse(self.renderer.mm_processor_cache, prompt)
        raise
    front_end.unsent.sent(prompt)
    if outcome is not None:
        front_end.metrics.count(outcome)
    return made


def _to_beam_search_params(inner: Callable[..., Any], self: Any, *args: Any, **kwargs: Any) -> Any:
    """vLLM leaves a request's own arguments out of beam search."""
    params = inner(*args, **kwargs)
    params.sparsesight = {k: v for k, v in (self.vllm_xargs or {}).items() if k == REQUEST_KEY}
    return params


def _beam_search(
    inner: Callable[..., Any], self: Any, prompt: Any, request_id: str, params: Any, *args: Any, **kwargs: Any
) -> Any:
    own = getattr(params, "sparsesight", None)
    front_end = front_end_of(self.renderer)
    if front_end is not None and isinstance(prompt, Mapping):
        from vllm import SamplingParams

        # Beams begin when a stream is read, after its status and headers are sent.
        outcome = front_end.admit(self.renderer, prompt, SamplingParams(extra_args=own))
        if outcome is not None:
            headers.note(outcome)
    if own:  # the beams are requests of their own, made with parameters that vLLM writes
        self = copy(self)
        self.engine_client = _WithArguments(self.engine_client, own)
        inner = partial(inner.func, self)  # type: ignore[attr-defined]
    return inner(prompt, request_id, params, *args, **kwargs)


class _WithArguments:
    """An engine's client that adds arguments to every request."""

    def __init__(self, client: Any, arguments: Mapping[str, Any]) -> None:
        self._client, self._arguments = client, arguments

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def generate(self, prompt: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
        params = copy(params)
        params.extra_args = {**(params.extra_args or {}), **self._arguments}
        return self._client.generate(prompt, params, *args, **kwargs)


def _load(inner: Callable[..., Any], self: Any, url: str, *args: Any, **kwargs: Any) -> Any:
    with _readable():
        return inner(url, *args, **kwargs)


async def _load_async(inner: Callable[..., Any], self: Any, url: str, *args: Any, **kwargs: Any) -> Any:
    with _readable():
        return await inner(url, *args, **kwargs)


@contextmanager
def _readable() -> Iterator[None]:
    """A picture that cannot be fetched or decoded is the client's error; vLLM answers some of these with HTTP 500."""
    from vllm.exceptions import VLLMError, VLLMUnprocessableEntityError

    try:
        yield
    except (VLLMError, ValueError):  # a 4xx already, or what vLLM wants to be tried again
        raise
    except Exception as error:
        raise VLLMUnprocessableEntityError(
            f"a picture or clip cannot be fetched or decoded: {type(error).__name__}: {error}",
            parameter="image_url",
        ) from error
