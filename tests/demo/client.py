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


def join(url: str, number: int, data: list[Any]) -> str:
    """Everything that the server says about one event."""
    body = {"data": data, "fn_index": number, "session_hash": f"page{time.monotonic_ns()}"}
    code, said = get(
        f"{url}gradio_api/queue/join", json.dumps(body).encode(), Content_Type="application/json"
    )
    assert code == 200, said
    return get(f"{url}gradio_api/queue/data?session_hash={body['session_hash']}")[1].decode()
