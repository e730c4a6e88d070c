"""Serves the page: to this machine only by default, with a temporary folder for uploads."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from .. import bundled
from ..errors import SparseSightError
from .uploads import MAX_BYTES, Uploads

if TYPE_CHECKING:
    from .engine import Engine
    from .tabs import Choices

PORTS = range(7860, 7880)
MAX_WAITING = 32  # questions in the queue
MAX_PAGES = 100  # whose state is remembered
MAX_BODY = 4 * 2**20  # bytes of a request that uploads nothing
MAX_UPLOAD = (
    2 * MAX_BYTES
)  # bytes of an upload; of a file that is only a little too large, Gradio says so itself
MAX_UPLOADING = 8  # uploads at once
UPLOAD_SECONDS = 60.0  # or some slow uploads would keep out all others
LOOPBACK = ("127.0.0.1", "localhost")
# Parts of Gradio that the page does not use: a video editor that starts ffmpeg, functions of components, a proxy,
# files fetched from elsewhere.
CLOSED = tuple(
    f"/gradio_api/{name}"
    for name in ("process_recording", "component_server", "proxy=", "file=http", "deep_link", "vibe-")
)


@contextmanager
def serving(
    engine: Engine, choices: Choices, host: str = "127.0.0.1", port: int | None = None
) -> Iterator[str]:
    """Serve the page; yields its address. Uploads are deleted at the end.

    Args:
        engine: of the model.
        choices: the page's initial values.
        host: address to listen on.
        port: None takes the first free one from 7860 on.

    Raises:
        SparseSightError: if nothing can listen there, or what listens does not answer.
    """
    _free_port(host, port)  # before the page is built
    with TemporaryDirectory(prefix="sparsesight-demo-") as folder, _variable("GRADIO_TEMP_DIR", folder):
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware

        from .page import build
        from .results import menu_css
        from .theme import theme
        from .wiring import ANY_FILE

        uploads = Uploads(Path(folder))
        gates = [Middleware(Gate, uploads=uploads)]
        if host in LOOPBACK:  # a foreign page whose name leads to this machine gets nothing
            gates.append(Middleware(TrustedHostMiddleware, allowed_hosts=list(LOOPBACK), www_redirect=False))
        page = build(engine, choices, uploads).queue(max_size=MAX_WAITING)
        try:
            url = _launch(
                page,
                host,
                port,
                theme=theme(),
                js=ANY_FILE,
                css=menu_css(),
                css_paths=Path(__file__).with_name("style.css"),
                max_file_size=MAX_BYTES,
                # Nothing else, whatever the environment says. Not the folder: what is allowed here is shown as what its
                # name says, and an uploaded page would run its scripts as ours.
                allowed_paths=[*map(str, bundled.pictures())],
                state_session_capacity=MAX_PAGES,
                footer_links=[],
                app_kwargs={"middleware": gates},
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
            _close(page)


def _launch(page: Any, host: str, port: int | None, **options: Any) -> str:
    """The address of the page once it listens; another process may take a free port before it does."""
    lost = set[int]()
    while True:
        number = _free_port(host, port, lost)
        try:
            with _variable("no_proxy", _no_proxy(host)):  # Gradio asks the page once, and a proxy has none
                return str(page.launch(server_name=host, server_port=number, **options)[1])
        except OSError:
            lost.add(number)
        except ValueError:  # an answer did not come in time
            raise SparseSightError(
                f"the demo at {host}:{number} does not answer this machine: try again when it is less busy, or look "
                "for a firewall"
            ) from None


def _no_proxy(host: str) -> str:
    """What no proxy is asked for, as before and this machine."""
    before = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    return ",".join(filter(None, (before, *LOOPBACK, host)))


def _close(page: Any) -> None:
    """End the server, also while pages are open."""
    if getattr(page, "server", None) is not None:  # it got as far as that
        page.server.force_exit = True  # open pages would keep it waiting
    log = logging.getLogger("uvicorn.error")
    log.disabled, before = True, log.disabled  # it would log a traceback for each open page
    page.close(verbose=False)
    log.disabled = before


class Gate:
    """Refuses requests for what the page does not use, and those that are too large.

    Args:
        app: the ASGI application that answers the others.
        uploads: where room is made for an upload before it comes.
    """

    def __init__(self, app: Any, uploads: Uploads) -> None:
        self._app, self._uploads, self._uploading = app, uploads, 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        http = scope["type"] == "http"
        uploads = http and _is_upload(scope)
        code = _refusal(scope) if http else None
        if code is None and uploads and self._uploading >= MAX_UPLOADING:
            code = 503
        if code is not None:
            await _answer(send, code)
            return
        if uploads:
            self._uploads.make_room()
        self._uploading += uploads
        try:
            # The answer of an upload begins when all of it has come.
            await asyncio.wait_for(self._app(scope, receive, send), UPLOAD_SECONDS if uploads else None)
        except asyncio.TimeoutError:
            await _answer(send, 408)
        finally:
            self._uploading -= uploads


async def _answer(send: Any, code: int) -> None:
    await send({"type": "http.response.start", "status": code, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def _is_upload(scope: Any) -> bool:
    return scope["method"] == "POST" and scope["path"].rstrip("/").endswith("/upload")


def _refusal(scope: Any) -> int | None:
    """The status code of a refused request; None if it is not refused."""
    path = scope["path"].rstrip("/")
    if path.startswith(CLOSED):
        return 404
    headers = dict(scope["headers"])
    if not {b"content-length", b"transfer-encoding"} & headers.keys():
        return None
    length = headers.get(b"content-length", b"")
    if b"transfer-encoding" in headers or not length.isdigit():
        return 411
    return 413 if int(length) > (MAX_UPLOAD if _is_upload(scope) else MAX_BODY) else None


def _free_port(host: str, port: int | None, lost: Collection[int] = ()) -> int:
    """A port that is free now, none of the ``lost`` ones."""
    reason = "taken by another process"
    for number in PORTS if port is None else (port,):
        if number in lost:
            continue
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
            return number
        except socket.gaierror:
            raise SparseSightError(
                f"--host {host!r} is not an address of this machine: use 127.0.0.1"
            ) from None
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
    taken = f"--port {port}" if port is not None else f"ports {PORTS.start} to {PORTS.stop - 1}"
    raise SparseSightError(
        f"{taken}: nothing can listen there on {host} ({reason.lower()}): choose another --port"
    )


@contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    """Set an environment variable within the block."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
