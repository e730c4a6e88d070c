"""A server in its own process, and what can be observed of it from outside. Loopback only."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

START_SECONDS = 3000  # compilation takes long on a busy machine


@dataclass(frozen=True)
class Server:
    """A running server."""

    address: str
    process: subprocess.Popen[bytes]

    def alive(self) -> bool:
        """Whether the server's process runs and answers."""
        try:
            return self.process.poll() is None and self._get("/health") is not None
        except OSError:
            return False

    def memory(self) -> float:
        """Resident memory of the server and its processes in MB; pages that they share count once for each."""
        main = psutil.Process(self.process.pid)
        total = 0
        for process in (main, *main.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total / 1e6

    def metrics(self) -> dict[str, float]:
        """vLLM's numbers and sparsesight's, summed over their labels."""
        found: dict[str, float] = {}
        for line in self._get("/metrics").splitlines():
            match = re.match(r"((?:vllm|sparsesight):[\w:]+)(?:\{.*\})? (\S+)$", line)
            if match:
                found[match[1]] = found.get(match[1], 0.0) + float(match[2])
        return found

    def forget(self) -> None:
        """Empty the prefix cache and those of pictures."""
        for cache in ("prefix", "mm", "encoder"):
            request = urllib.request.Request(f"{self.address}/reset_{cache}_cache", b"")
            urllib.request.urlopen(request, timeout=120).close()

    def state(self) -> dict[str, Any]:
        """What the worker tells of the plugin (`worker_state.py`)."""
        request = urllib.request.Request(
            f"{self.address}/collective_rpc",
            json.dumps({"method": "sparsesight_state"}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as response:
            state: dict[str, Any] = json.load(response)["results"][0]
        return state

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(self.address + path, timeout=120) as response:
            text: str = response.read().decode()
        return text


@contextmanager
def serve(log: Path, arguments: Sequence[str]) -> Iterator[tuple[Server, list[str]]]:
    """A server that is ready, and its command.

    Raises:
        RuntimeError: it does not start; with the end of its log.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["sparsesight", "serve", *arguments, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--worker-extension-cls", "soak.worker_state.WorkerState"]
    here = str(Path(__file__).parents[1])  # where the worker finds its extension
    path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), here)))
    environment = {
        **os.environ,
        "PYTHONPATH": path,
        "VLLM_SERVER_DEV_MODE": "1",
    }  # the mode has /collective_rpc and /reset_prefix_cache
    environment.pop("VLLM_CPU_KVCACHE_SPACE", None)  # it would go before --kv-cache-memory-bytes
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    server = Server(f"http://127.0.0.1:{port}", process)
    try:
        until = time.monotonic() + START_SECONDS
        while not server.alive():
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the server does not start:\n{log.read_text()[-4000:]}")
            time.sleep(0.5)
        yield server, command
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)
