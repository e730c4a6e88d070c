"""A server in a process of its own, as ``sparsesight serve`` starts it, and what a user's client sends to it."""

from __future__ import annotations

import base64
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest


@contextmanager
def served(
    log: Path, *arguments: str, program: Sequence[str] = ("sparsesight", "serve", "bundled")
) -> Iterator[str]:
    """The address of a server of the bundled model; it must end well when it is told to."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", *program, *arguments]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait(process, address, log)
        # The same process: what a service manager started is the server.
        started = Path(f"/proc/{process.pid}/cmdline")
        assert not started.exists() or b"sparsesight.vllm.server" in started.read_bytes()
        yield address
        process.terminate()
        assert process.wait(60) in (0, -15), log.read_text()[-3000:]
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # whatever is left, its engine too
        process.wait(60)


def _wait(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    until = time.monotonic() + 500
    while time.monotonic() < until:
        if process.poll() is not None:
            pytest.fail(f"the server ended:\n{log.read_text()[-3000:]}")
        try:
            urllib.request.urlopen(f"{address}/health", timeout=5)
            return
        except OSError:
            time.sleep(0.3)
    pytest.fail(f"the server does not answer:\n{log.read_text()[-3000:]}")


def picture_part(data: bytes) -> dict[str, Any]:
    """A picture in a message."""
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    return {"type": "image_url", "image_url": {"url": url}}


def request(
    question: str, pictures: Sequence[Path] = (), retain: Any = None, min_tokens: int | None = 8, **more: Any
) -> dict[str, Any]:
    """Arguments of ``chat.completions.create``; with ``min_tokens`` an answer has words that the model is unsure of."""
    content = [picture_part(path.read_bytes()) for path in pictures]
    made: dict[str, Any] = {
        "model": "bundled",
        "temperature": 0,
        "max_tokens": 8,
        "logprobs": True,
        "messages": [{"role": "user", "content": [*content, {"type": "text", "text": question}]}],
    }
    # transformers begins every prompt with <s>, vLLM's chat route only where the template or the request says so.
    extra: dict[str, Any] = {
        "add_special_tokens": True,
        **({} if min_tokens is None else {"min_tokens": min_tokens}),
    }
    if retain is not None:
        extra["vllm_xargs"] = {"sparsesight_retain": retain}
    return {**made, "extra_body": extra, **more}
