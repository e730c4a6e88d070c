"""The OpenAI-compatible server with the plugin: as a user starts it, in processes of its own."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from sparsesight import bundled

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that prunes to 64 tokens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    flags = (
        "--dtype float32 --enforce-eager --no-enable-prefix-caching --max-model-len 1024 --max-num-seqs 8 "
        f"--max-num-batched-tokens 8192 --host 127.0.0.1 --port {port} --served-model-name tiny"
    ).split()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(bundled.MODEL_PATH)]
    entry = ["--additional-config", json.dumps({"sparsesight": {"method": "sparsevlm+", "retain": 64}})]
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", **os.environ}
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, *flags, *entry], stdout=output, stderr=subprocess.STDOUT, env=environment
        )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            if process.poll() is not None:
                pytest.fail(f"the server ended:\n{log.read_text()[-3000:]}")
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5)
                break
            except OSError:
                time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        process.wait(60)


def ask(server: str, picture: Path, question: str, **more: Any) -> str:
    """The answer to a question about a picture."""
    data = base64.b64encode(picture.read_bytes()).decode()
    content = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
        {"type": "text", "text": question},
    ]
    body = {
        "model": "tiny",
        "temperature": 0,
        "max_tokens": 8,
        "messages": [{"role": "user", "content": content}],
    }
    request = urllib.request.Request(
        f"{server}/v1/chat/completions",
        json.dumps({**body, **more}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        answer: str = json.load(response)["choices"][0]["message"]["content"]
    return answer.strip()


def test_concurrent_questions_get_their_answers(server: str) -> None:
    asked = bundled.picture_questions()
    jobs = [(path, entry["question"]) for path in bundled.pictures() for entry in asked[path.name]]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda job: ask(server, *job), jobs))
    assert together == [ask(server, *job) for job in jobs]
    right = [entry["answer"] for path in bundled.pictures() for entry in asked[path.name]]
    wrong = [x for x in zip(jobs, together, right, strict=True) if x[1] != x[2]]
    assert len(wrong) <= len(jobs) // 10, wrong  # the dense model gives them all


@pytest.mark.parametrize("retain", ["none", 128, 0.5, [200, 100, 50]])
def test_a_request_may_choose_its_budget(server: str, retain: Any) -> None:
    path = bundled.default_picture()
    first = bundled.picture_questions()[path.name][0]
    assert ask(server, path, first["question"], vllm_xargs={"sparsesight_retain": retain}) == first["answer"]


@pytest.mark.parametrize("retain", ["many", -3, 1.5, [1, 2]])
def test_a_request_that_cannot_be_is_a_bad_request(server: str, retain: Any) -> None:
    with pytest.raises(urllib.error.HTTPError) as error:
        ask(server, bundled.default_picture(), "What color is it?", vllm_xargs={"sparsesight_retain": retain})
    message = json.load(error.value)["error"]["message"]
    assert error.value.code == 400
    assert "sparsesight_retain" in message and "keeps every token" in message
