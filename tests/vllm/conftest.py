"""What vLLM reads from the environment, for as long as its tests run: no other test may see it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="package", autouse=True)
def engines_in_this_process() -> Iterator[None]:
    """The engine here, where its model can be asked, and a KV cache of 1 GiB unless the user names another."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        if "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
            patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        yield
