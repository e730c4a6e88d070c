"""A settings file, as `sparsesight tune` writes it, on a running server: with ``serve --settings``, and as vLLM's
``--additional-config`` is."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparsesight import bundled
from sparsesight.methods import Halves, Method, SparseVLMPlus
from sparsesight.settings import read_settings, settings_json

from .asked_server import PICTURE, QUESTION, answer, expected, metric, same
from .client import request, served

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
SMALL = ("--enforce-eager", "--max-num-seqs", "2")
AS_IT_IS = (
    *(
        "sparsesight.vllm.server",
        str(bundled.MODEL_PATH),
        "--served-model-name",
        "bundled",
        "--dtype",
        "float32",
    ),
    *("--block-size", "32", "--kv-cache-memory-bytes", str(2**28)),
    *("--middleware", "sparsesight.vllm.headers.OutcomeHeader"),
)


@pytest.mark.parametrize(
    ("method", "whole"),
    [(SparseVLMPlus(0.25), False), (Halves(0.25), True)],
    ids=["serve --settings", "--additional-config"],
)
def test_a_server_prunes_as_the_file_says(method: Method, whole: bool, tmp_path: Path) -> None:
    from openai import OpenAI

    file = tmp_path / "sparsesight.json"
    file.write_text(settings_json(method, {"model": "bundled", "kept": 0.99}))
    assert read_settings(file) == method
    options = (
        (*AS_IT_IS, "--additional-config", file.read_text())
        if whole
        else ("sparsesight", "serve", "bundled", "--settings", str(file))
    )
    with (
        served(tmp_path / "log", *SMALL, program=options) as address,
        OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client,
    ):
        raw = client.chat.completions.with_raw_response.create(**request(QUESTION, [PICTURE]))
        assert raw.headers["x-sparsesight"].startswith(f"{method.name}; visual=576")
        assert same(answer(raw.parse()), expected(QUESTION, [PICTURE], method))
        assert metric(address, "sparsesight:prompts_pruned_total") == 1
        dense = client.chat.completions.create(**request(QUESTION, [PICTURE], "none"))
        assert same(answer(dense), expected(QUESTION, [PICTURE], None))
