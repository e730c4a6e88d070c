"""A client of the page's server that sends what it likes."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from typing import Any


def get(url: str, data: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    request = urllib.request.Request(url, data, {k.replace("_", "-"): v for k, v in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def upload(url: str, content: bytes, name: str = "a.png") -> tuple[int, bytes]:
    head = f'--b\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
    body = head + content + b"\r\n--b--\r\n"
    return get(f"{url}gradio_api/upload", body, Content_Type="multipart/form-data; boundary=b")


def config(url: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(get(f"{url}config")[1])
    return found


def listen(url: str, number: int, data: list[Any], page: str) -> Any:
    """What the server says about an event, line by line as it comes.

    Args:
        number: of the event.
        data: its values.
        page: the session, which names whose state the server uses.
    """
    body = {"data": data, "fn_index": number, "session_hash": page}
    code, said = get(
        f"{url}gradio_api/queue/join", json.dumps(body).encode(), Content_Type="application/json"
    )
    assert code == 200, said
    return urllib.request.urlopen(f"{url}gradio_api/queue/data?session_hash={page}", timeout=60)


def join(url: str, number: int, data: list[Any], page: str = "") -> str:
    """Everything that the server says about one event; by default, of a page of its own."""
    with listen(url, number, data, page or f"page{time.monotonic_ns()}") as answer:
        return str(answer.read().decode())
