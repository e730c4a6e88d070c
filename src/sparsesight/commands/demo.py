"""``sparsesight demo``: dense and sparse answers in a browser."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import SparseSightError
from ..terminal import echo, rich_text
from .options import METHOD, RETAIN, choose_plain_method, choose_retain

if TYPE_CHECKING:
    from ..demo.engine import Engine
    from ..demo.tabs import Choices

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def demo(
    model: str | None = typer.Option(
        None, help="A folder or a Hugging Face Hub id.", show_default="the bundled model"
    ),
    method: str | None = typer.Option(None, help="The initial method.", show_default=METHOD),
    retain: str | None = typer.Option(
        None,
        help="The initial budget: the average number of visual tokens per layer (64), or a ratio (0.33 or 33%).",
        show_default=str(RETAIN),
    ),
    max_new_tokens: int = typer.Option(64, min=1, help="Maximum length of an answer."),
    host: str = typer.Option(
        "127.0.0.1", help="Address to listen on: 0.0.0.0 accepts other machines, without a password."
    ),
    port: int | None = typer.Option(
        None, min=1, max=65535, help="Port to listen on.", show_default="the first free one from 7860 on"
    ),
    device: str = typer.Option("auto", help="auto, cpu, cuda, cuda:1, ..."),
    dtype: str = typer.Option("auto", help="auto, float32, bfloat16 or float16."),
    trust_remote_code: bool = typer.Option(
        False, "--trust-remote-code", help="Run code that comes with the model."
    ),
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

    progress = Console(stderr=True)
    download = model is not None and not Path(model).expanduser().exists()
    with progress.status("starting"):
        from ..hf.loading import load_model, quiet
        from ..methods import make_method

        make_method(name, retain=budget)
    with quiet(bars=download and progress.is_terminal):
        progress.print(rich_text(f"loading {'the bundled model' if model is None else model}"))
        loaded = load_model(model, device, dtype, trust_remote_code)
        from ..demo.engine import Engine

        engine = Engine(loaded, max_new_tokens)
        choices = first_choices(engine, name, budget)
    from ..demo.server import serving

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the temporary folder is deleted
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
    typer.echo("ended")
    sys.stdout.flush()
    # Threads of the server and the model may still be running, but nobody waits for their results.
    os._exit(0)


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
