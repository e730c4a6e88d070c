"""Serving the page: on this machine only unless told otherwise, with a folder of its own for what is uploaded."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ..errors import SparseSightError
from .running import SessionRegistry
from .uploads import MAX_BYTES

if TYPE_CHECKING:
    from .engine import Engine
    from .page import Choices

PORTS = range(7860, 7880)
MAX_WAITING = 32  # questions in the queue
MAX_PAGES = 100  # whose state is remembered


@contextmanager
def serving(
    engine: Engine, choices: Choices, host: str = "127.0.0.1", port: int | None = None
) -> Iterator[str]:
    """Within it, the page is served; gives its address. What was uploaded is deleted at the end.

    Args:
        engine: of the model.
        choices: what the page begins with.
        host: address to listen on.
        port: None takes the first free one from 7860 on.

    Raises:
        SparseSightError: if nothing can listen there.
    """
    port = _free_port(host, port)
    with TemporaryDirectory(prefix="sparsesight-demo-") as folder, _variable("GRADIO_TEMP_DIR", folder):
        from .page import build
        from .theme import theme

        desk = SessionRegistry()
        page = build(engine, desk, choices).queue(max_size=MAX_WAITING)
        try:
            _, url, _ = page.launch(
                server_name=host,
                server_port=port,
                theme=theme(),
                css_paths=Path(__file__).with_name("style.css"),
                max_file_size=MAX_BYTES,
                allowed_paths=[folder],  # nothing else, whatever the environment says
                state_session_capacity=MAX_PAGES,
                footer_links=[],
                run_history=False,
                enable_monitoring=False,
                share=False,
                ssr_mode=False,
                mcp_server=False,
                pwa=False,
                inbrowser=False,
                quiet=True,
                prevent_thread_lock=True,
            )
            yield url
        finally:
            desk.close_all()
            page.close(verbose=False)


def _free_port(host: str, port: int | None) -> int:
    """A port on which one can listen now."""
    for number in PORTS if port is None else (port,):
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
            return number
        except socket.gaierror:
            raise SparseSightError(f"--host {host!r} is no address of this machine: use 127.0.0.1") from None
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
    taken = f"--port {port}" if port is not None else f"ports {PORTS.start} to {PORTS.stop - 1}"
    raise SparseSightError(
        f"{taken}: nothing can listen there on {host} ({reason.lower()}): choose another --port"
    )


@contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    """An environment variable, for a time."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
