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

MODEL = "model"  # events that use the model share this queue, one at a time

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


def path_of(upload: Any) -> str | None:
    """Where an uploaded picture lies. Gradio has seen to it that this is in its own folder."""
    path = upload.get("path") if isinstance(upload, dict) else None
    return path if isinstance(path, str) else None


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
