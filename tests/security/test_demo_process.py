"""The demo as a process: it ends within seconds when it is told to, in the middle of its work too."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.commands.command_line import PICTURE, QUESTION
from tests.demo.client import config, join, listen, upload

pytest.importorskip("gradio", reason="needs Gradio: pip install 'sparsesight[demo]'")


@pytest.mark.slow
def test_a_signal_ends_it_in_the_middle_of_a_run(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    server = subprocess.Popen(
        [sys.executable, "-m", "sparsesight", "demo", "--port", port],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert server.stdout is not None
    try:
        ready = next(line for line in server.stdout if " is at " in line)
        url = ready.split()[3]
        (path,) = json.loads(upload(url, PICTURE.read_bytes())[1])
        assert tmp_path in Path(path).parents
        methods, budgets = ["sparsevlm+", "fastv", "divprune", "random"], [288, 192, 128, 64, 32]
        grid = [{"path": path}, QUESTION, methods, budgets, None]
        events = {d["api_name"]: d["id"] for d in config(url)["dependencies"]}
        join(url, events["check_1"], grid, "page")
        told = listen(url, events["run_1"], [None], "page")
        assert any(b"process_generating" in line for line in told)  # the first of twenty-one runs
        start = time.monotonic()
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):  # told more than once
            server.send_signal(number)
            time.sleep(0.05)
        assert server.wait(30) == 0
        assert time.monotonic() - start < 5
        rest = server.stdout.read()
        assert rest == "ended\n"
        assert not [file for file in tmp_path.rglob("*") if file.is_file()]  # what was uploaded is gone
    finally:
        server.kill()
        server.wait()
