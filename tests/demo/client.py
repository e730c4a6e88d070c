"""A client of the page's server that sends what it likes."""

from __future__ import annotations

import http.client
import json
import time
import urllib.request
from contextlib import closing, suppress
from typing import Any
from urllib.parse import urlsplit


def get(url: str, data: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    """The status code and the content of an answer, which a server may give before it has read all of `data`."""
    there = urlsplit(url)
    connection = http.client.HTTPConnection(there.netloc, timeout=60)
    path = f"{there.path}?{there.query}" if there.query else there.path
    told = {"Content-Type": "application/x-www-form-urlencoded"} if data is not None else {}
    told |= {name.replace("_", "-"): value for name, value in headers.items()}
    with closing(connection):
        with suppress(BrokenPipeError, ConnectionResetError):  # refused by its head alone
            connection.request("GET" if data is None else "POST", path, data, told)
        answer = connection.getresponse()
        return answer.status, answer.read()


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
