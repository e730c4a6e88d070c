"""How the page's buttons reach the model: checks at once, then a turn in the queue, and errors that are sentences."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from html import escape
from typing import Any

import gradio as gr

from ..errors import SparseSightError
from .runs import sentence
from .uploads import Uploads

MODEL = "model"  # events that use the model share this queue, one at a time
# What an event may be sent: far more than the page sends, far less than hurts.
MAX_TEXT, MAX_NUMBER, MAX_ITEMS, MAX_DEPTH = 10_000, 1e15, 100, 4

# Values are checked here, not by Gradio: its own picture reader would decode whatever was sent, without a limit, and
# say "Error" of what it cannot read.
PRIVATE: dict[str, Any] = {"api_visibility": "private", "preprocess": False, "show_progress": "hidden"}
# What needs no turn. Not queue=False: a page shows no errors of such events.
AT_ONCE: dict[str, Any] = {**PRIVATE, "concurrency_limit": None}


def as_error(error: Exception) -> gr.Error:
    """What a page shows of an error; of one that is nobody's mistake the log has the rest."""
    if not isinstance(error, SparseSightError):
        logging.getLogger(__name__).error("the demo failed", exc_info=error)
    return gr.Error(escape(sentence(error)), title="That does not work", print_exception=False)


def sentences(function: Callable[..., Any]) -> Callable[..., Any]:
    """A handler whose errors are sentences."""

    @wraps(function)
    def handler(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except gr.Error:
            raise
        except Exception as error:
            raise as_error(error) from None

    return handler


def streaming_sentences(function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """The same for a handler that yields."""

    @wraps(function)
    def handler(*args: Any, **kwargs: Any) -> Iterator[Any]:
        try:
            yield from function(*args, **kwargs)
        except gr.Error:
            raise
        except Exception as error:
            raise as_error(error) from None

    return handler


class Page(gr.Blocks):
    """A page that reads what it is sent before Gradio does.

    Gradio checks a file only where its data has a certain mark, fetches addresses, and keeps what an event was sent.
    """

    uploads: Uploads

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *args: Any, **kwargs: Any) -> list[Any]:
        try:
            for value in inputs:
                self._check(value)
            found: list[Any] = await super().preprocess_data(block_fn, inputs, *args, **kwargs)
        except (gr.Error, SparseSightError) as error:
            raise error if isinstance(error, gr.Error) else as_error(error) from None
        except (ValueError, RecursionError):  # other types than the components take, or fewer or more values
            raise as_error(SparseSightError("this is nothing that the page sends: load it again")) from None
        return found

    def _check(self, value: Any, depth: int = 0) -> None:
        """Reject a value that no part of the page sends.

        Raises:
            SparseSightError: a file that is none of the uploaded ones, or too much of anything.
        """
        if isinstance(value, str) and len(value) > MAX_TEXT:
            raise SparseSightError(
                f"a text has {len(value):,} characters, more than the limit of {MAX_TEXT:,}: shorten it"
            )
        if isinstance(value, int | float) and not abs(value) < MAX_NUMBER:
            raise SparseSightError("a number is too large: choose one that the page offers")
        if not isinstance(value, dict | list):
            return
        if depth == MAX_DEPTH or len(value) > MAX_ITEMS:
            raise SparseSightError("this is more than the page can send: load the page again")
        if isinstance(value, dict) and ("path" in value or "url" in value):
            self.uploads.path_of(value)
        for item in (*value, *value.values()) if isinstance(value, dict) else value:
            self._check(item, depth + 1)


def connect(
    triggers: Sequence[Any],
    check: Callable[..., Any],
    run: Callable[..., Iterator[Any]],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    status: Any,
) -> None:
    """Have ``triggers`` check what was asked, and then run it when the model is free.

    Both are called with the values of ``inputs`` and Gradio's request. ``check`` gives the status and the number of the
    run it opened, which ``run`` is handed behind the inputs: by the time it has its turn, the page may have opened
    another.
    """
    # Not gr.State, which the server reads when the turn comes: this value travels with the event.
    number = gr.Number(0, visible="hidden", precision=0)
    begun = gr.on(
        list(triggers),
        sentences(check),
        list(inputs),
        [status, number],
        trigger_mode="multiple",
        **AT_ONCE,
    )
    begun.success(
        streaming_sentences(run),
        [*inputs, number],
        list(outputs),
        concurrency_limit=1,
        concurrency_id=MODEL,
        trigger_mode="always_last",
        **PRIVATE,
    )
