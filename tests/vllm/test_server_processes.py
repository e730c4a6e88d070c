"""Options that only ``vllm serve`` reads: several API server processes, and none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sparsesight import bundled
from sparsesight.method_names import DEFAULT

from .asked_server import metric
from .client import request, served

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
SMALL = ("--enforce-eager", "--max-num-seqs", "4", "--retain", "64")


def test_several_processes_answer_and_count_together(tmp_path: Path) -> None:
    from openai import OpenAI

    picture = bundled.default_picture()
    with served(tmp_path / "log", *SMALL, "--api-server-count", "2") as address:
        for _ in range(8):
            # a connection each, so that both processes get some
            with OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
                asked: Any = request("What color is it?", [picture], min_tokens=None)
                found = client.chat.completions.with_raw_response.create(**asked)
            assert found.headers["x-sparsesight"].startswith(f"{DEFAULT}; visual=576")
        assert metric(address, "sparsesight:prompts_pruned_total") == 8
        assert metric(address, "sparsesight:visual_tokens_total") == 8 * 576
    assert "ApiServer_1" in (tmp_path / "log").read_text()


def test_without_an_api_server_there_is_none(tmp_path: Path) -> None:
    """vLLM's own check of the two options is reached, which only ``vllm serve`` makes."""
    command = [sys.executable, "-m", "sparsesight", "serve", "bundled", *SMALL]
    run = subprocess.run(
        [*command, "--headless", "--api-server-count", "2"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode != 0 and "--headless" in run.stderr and "api-server-count" in run.stderr, (
        run.stderr[-2000:]
    )
