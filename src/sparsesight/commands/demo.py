"""``sparsesight demo``: dense and sparse answers in a browser."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from ..errors import SparseSightError
from ..method_names import DEFAULT
from ..terminal import echo
from .options import (
    RETAIN,
    Device,
    Dtype,
    MaxNewTokens,
    Model,
    TrustRemoteCode,
    choose_plain_method,
    choose_retain,
    complete_method,
)

if TYPE_CHECKING:
    from ..demo.engine import Engine
    from ..demo.tabs import Choices

SIGNALS = (signal.SIGINT, signal.SIGTERM)
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def demo(
    model: Model = None,
    method: str | None = typer.Option(
        None, autocompletion=complete_method, help="The initial method.", show_default=DEFAULT
    ),
    retain: str | None = typer.Option(
        None,
        help="The initial budget: the average number of visual tokens per layer (64), or a ratio (0.33 or 33%).",
        show_default=str(RETAIN),
    ),
    max_new_tokens: MaxNewTokens = 64,
    host: str = typer.Option(
        "127.0.0.1", help="Address to listen on: 0.0.0.0 accepts other machines, without a password."
    ),
    port: int | None = typer.Option(
        None, min=1, max=65535, help="Port to listen on.", show_default="the first free one from 7860 on"
    ),
    device: Device = "auto",
    dtype: Dtype = "auto",
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Serve a page that answers questions about a picture, dense and sparse.

    Needs Gradio, which the extra "demo" installs. Pictures stay in a temporary folder and are deleted at the end;
    nothing is sent to other machines. Ctrl+C ends the server.

    Environment: RETAIN_TOKN=64 is a default for --retain, and USE_VERSION=1_0 (sparsevlm) or 2_0 (sparsevlm+) one for
    --method.
    """
    budget = choose_retain(retain)
    if isinstance(budget, tuple):
        raise SparseSightError(
            f"--retain {retain!r}: the page has one slider, give an average (64) or a ratio (0.33)"
        )
    name = choose_plain_method(method, "demo")
    if find_spec("gradio") is None:
        raise SparseSightError("sparsesight demo needs Gradio: pip install 'sparsesight[demo]'")
    from rich.console import Console

    from .progress import loaded_model

    console = Console(stderr=True)
    with console.status("starting"):
        from ..methods import make_method

        make_method(name, retain=budget)
    with loaded_model(console, model, device, dtype, trust_remote_code) as loaded:
        from ..demo.engine import Engine

        engine = Engine(loaded, max_new_tokens)
        choices = first_choices(engine, name, budget)
    from ..demo.server import serving

    for number in SIGNALS:
        signal.signal(number, _end)
    try:
        with serving(engine, choices, host, port) as url:
            echo(f"SparseSight is at {url} (Ctrl+C ends it)")
            if host not in LOOPBACK:
                echo(
                    f"note: whoever reaches {host}:{url.rstrip('/').rpartition(':')[2]} can use it", err=True
                )
            with suppress(KeyboardInterrupt):
                while True:
                    time.sleep(1)
    finally:
        engine.close()
    with suppress(OSError):  # nobody reads it
        typer.echo("ended")
        sys.stdout.flush()
    # Threads of the server and the model may still be running, but nobody waits for their results.
    os._exit(0)


def _end(number: int, frame: Any) -> NoReturn:
    """Ends the server in order, so that the temporary folder is deleted; impatience does not cut that short."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def first_choices(engine: Engine, method: str, budget: int | float) -> Choices:
    """The page's initial values; also runs the model on a picture once, to check that it works.

    Raises:
        SparseSightError: the model does not work, or the picture has fewer visual tokens than the budget.
    """
    from .. import bundled
    from ..demo.tabs import Choices
    from ..images import open_image

    picture = open_image(bundled.default_picture())
    visual = engine.visual_tokens(picture)
    start = time.perf_counter()
    engine.visual_tokens(picture)
    seconds = time.perf_counter() - start
    tokens: Any = budget if isinstance(budget, int) else max(round(budget * visual), 1)
    if tokens > visual:
        raise SparseSightError(
            f"--retain {budget}: the model has {visual} visual tokens a picture, give no more"
        )
    return Choices(method, tokens, visual, seconds)
