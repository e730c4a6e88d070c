"""How the page's buttons reach the model: a check at once, then a turn in Gradio's queue, and errors as sentences."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from threading import Event
from typing import Any

import gradio as gr

from ..errors import SparseSightError
from .results import status as line
from .running import Stopped
from .runs import sentence
from .uploads import Uploads

MODEL = "model"  # events that use the model share this queue, one at a time
WAITING = "Waiting for a turn: the model answers one question at a time."
# What an event may be sent: far more than the page sends, and still harmless.
MAX_TEXT, MAX_NUMBER, MAX_ITEMS, MAX_DEPTH = 10_000, 1e15, 100, 4

# Values are checked here, not by Gradio: its own picture reader would decode whatever was sent, without a limit, and
# only say "Error" if it cannot read it.
PRIVATE: dict[str, Any] = {"api_visibility": "private", "preprocess": False, "show_progress": "hidden"}
# Events that need no turn. Not queue=False: a page shows no errors of such events.
AT_ONCE: dict[str, Any] = {**PRIVATE, "concurrency_limit": None}
# On a phone the answer is far below the question. The page is too short to show it before it is there.
SHOW = """() => {
    if (innerWidth <= 640) document.getElementById("%s").scrollIntoView({behavior: "smooth"});
}"""
# The same for rows that come one by one, unless the reader went elsewhere meanwhile.
FOLLOW = """() => {
    const status = document.getElementById("ss-%s-status"), top = status.getBoundingClientRect().top;
    if (innerWidth <= 640 && innerHeight / 2 < top && top < innerHeight) status.scrollIntoView({behavior: "smooth"});
}"""
# What answers something else than the page asks is dimmed until its tab runs again.
OLD = """() => {
    for (const tab of document.querySelectorAll("[role=tabpanel]"))
        if (tab.querySelector("%s")) tab.dataset.old = "";
}"""
FRESH = """() => {
    delete document.getElementById("%s").closest("[role=tabpanel]").dataset.old;
}"""

# Gradio's page drops a file that is no picture by its name, without a word or with one of its own. With a picture's
# type it gets to the server, which says what is wrong with it and what is accepted.
ANY_FILE = """() => {
    const isPicture = (file) => file.type.startsWith("image/");
    const asPictures = (files) => {
        const made = new DataTransfer();
        for (const file of files)
            made.items.add(isPicture(file) ? file : new File([file], file.name, {type: "image/png"}));
        return made;
    };
    document.addEventListener("change", (event) => {
        const input = event.target;
        if (input.matches("#ss-picture input[type=file]") && ![...input.files].every(isPicture))
            input.files = asPictures(input.files).files;
    }, true);
    document.addEventListener("drop", (event) => {
        const files = event.dataTransfer?.files ?? [], place = event.target;
        if (!place.closest("#ss-picture") || [...files].every(isPicture)) return;
        event.stopImmediatePropagation();
        event.preventDefault();
        const dataTransfer = asPictures(files);
        place.dispatchEvent(new DragEvent("drop", {bubbles: true, cancelable: true, dataTransfer}));
    }, true);
}"""


def as_error(error: Exception) -> gr.Error:
    """What a page shows of an error; the log has the rest of one that is not a user's mistake."""
    if not isinstance(error, SparseSightError):
        logging.getLogger(__name__).error("the demo failed", exc_info=error)
    return gr.Error(escape(sentence(error)), title="That does not work", print_exception=False)


@contextmanager
def sentences() -> Iterator[None]:
    """Errors within it, or of a function that it decorates, become sentences."""
    try:
        yield
    except gr.Error:
        raise
    except Exception as error:
        raise as_error(error) from None


class Page(gr.Blocks):
    """A page that checks what it is sent before Gradio does.

    Gradio checks a file only where its data is marked as one, fetches addresses, and keeps what an event was sent.
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
            raise as_error(SparseSightError("the page does not send such a request: load it again")) from None
        return found

    def _check(self, value: Any, depth: int = 0) -> None:
        """Reject a value that no part of the page sends.

        Raises:
            SparseSightError: a file that was not uploaded here, or too much of anything.
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


def outdate(changed: Iterable[Any], *tabs: str) -> None:
    """Dim the results of tabs, named as in ``ss-ask-status``, whenever one of these components changes."""
    for component in changed:
        js = OLD % ", ".join(f"#ss-{tab}-status" for tab in tabs)
        component.change(None, None, None, js=js, **AT_ONCE)


@dataclass(eq=False)
class Turn:
    """What a page asked last. It is kept in a ``gr.State``, so no client can make one up.

    Attributes:
        run, request: what to do: a generator, and its arguments.
        stop: set by Stop, and when the page asks something else.
        begun: whether it had its turn in the queue.
    """

    run: Callable[..., Iterator[dict[Any, Any]]]
    request: tuple[Any, ...]
    stop: Event = field(default_factory=Event)
    begun: bool = False


def connect(
    triggers: Sequence[Any],
    check: Callable[..., tuple[Any, ...]],
    run: Callable[..., Iterator[dict[Any, Any]]],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    status: Any,
    turn: gr.State,
    waiting: str = WAITING,
) -> None:
    """Have ``triggers`` check what is asked, and then run it when the model is free.

    A page has one turn: asking again stops what it asked before, whether it runs or waits.

    Args:
        check: called with the values of ``inputs``; returns the arguments of ``run``.
        run: called with these arguments and the event that stops it; yields values of ``outputs`` by component. When
            Gradio closes it, as the page is gone, it ends too.
        status: the component of the status line, one of ``outputs``.
        turn: the page's :class:`Turn`.
        waiting: the status until the turn comes.
    """

    @sentences()
    def checked(*given: Any) -> tuple[str, Turn]:
        *values, before = given
        request = check(*values)
        if before is not None:
            before.stop.set()
        return line(waiting), Turn(run, request)

    def running(now: Turn | None) -> Iterator[dict[Any, Any]]:
        # The event of an earlier question may find a later one here, and runs that instead.
        if now is None or now.run is not run:
            yield {status: line("Stopped.")}
            return
        if now.begun:
            yield {status: gr.skip()}  # a generator that yields nothing would clear all outputs
            return
        now.begun = True
        with sentences():
            try:
                yield from run(*now.request, now.stop)
            except Stopped:
                yield {status: line("Stopped.")}
            except Exception as error:
                yield {status: line(sentence(error), kind="problem")}
                raise

    checks = gr.on(
        list(triggers),
        checked,
        [*inputs, turn],
        [status, turn],
        trigger_mode="always_last",  # one check after the other, so that the last one decides
        api_name="check",
        **AT_ONCE,
    )
    checks.success(None, None, None, js=FRESH % status.elem_id, **AT_ONCE)
    checks.success(
        running,
        turn,
        list(outputs),
        concurrency_limit=1,
        concurrency_id=MODEL,
        trigger_mode="always_last",
        api_name="run",
        **PRIVATE,
    )
