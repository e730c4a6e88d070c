"""What vLLM reads from the environment, for as long as its tests run (no other test may see it), and its engines."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from typing import Any

import pytest


@pytest.fixture(scope="package", autouse=True)
def engines_in_this_process() -> Iterator[None]:
    """The engine here, where its model can be asked, and a KV cache of 1 GiB unless the user names another.

    As in vLLM's own tests on CPUs no engine warms up, and what is compiled is traced, without generated kernels. What
    vLLM does for each engine, though once in a process is enough, is done once or left: it looks at models in processes
    of their own, lest CUDA is set up here, goes through all modules for Triton kernels, and freezes the heap.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        patch.setenv("VLLM_CPU_CI_ENV", "1")
        # Drafts of n-grams are made with numba, which else leaves two threads to all kernels of the process: on busy
        # cores each waits for the other, and every later test takes three times as long.
        patch.setenv("NUMBA_NUM_THREADS", "1")
        if "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
            patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        if find_spec("vllm") is not None:
            from vllm.model_executor.models import registry
            from vllm.platforms import current_platform
            from vllm.v1.engine import core

            patch.setattr(registry, "_run_in_subprocess", lambda look: look())
            once = cache(current_platform.register_triton_kernel_overrides)
            patch.setattr(type(current_platform), "register_triton_kernel_overrides", staticmethod(once))
            patch.setattr(core, "freeze_gc_heap", lambda: None)
            # Each engine collects garbage four times, half of the time that it takes: only among what came after this.
            patch.setattr(gc, "unfreeze", lambda: None)
            gc.collect()
            gc.freeze()
        yield


@pytest.fixture
def said(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Iterator[pytest.LogCaptureFixture]:
    """What is logged for vLLM's users, from INFO on, whether or not vLLM has set up its loggers."""
    if find_spec("vllm") is not None:  # it would take away the handler when it does so later
        from vllm.config.logging import LoggingConfig
        from vllm.logger import configure_logging_if_needed

        configure_logging_if_needed(LoggingConfig())
    logger = logging.getLogger("vllm.sparsesight")
    monkeypatch.setattr(logger, "propagate", False)
    logger.addHandler(caplog.handler)
    with caplog.filtering(lambda record: record.name == logger.name), caplog.at_level("INFO", logger.name):
        yield caplog
    logger.removeHandler(caplog.handler)


@pytest.fixture(scope="module")
def opened() -> Iterator[Callable[..., Any]]:
    """Opens one engine after another. Each is closed before the next one, unless that is to be the same."""
    from sparsesight.vllm.stats import Tally

    from .engines import close, engine, pruner

    engines: dict[str, Any] = {}

    def open_(method: Any, **arguments: Any) -> Any:
        asked = repr((method, arguments, os.environ.get("VLLM_CPU_CI_ENV")))
        if asked not in engines:
            close_all()
            engines[asked] = engine(method, **arguments)
        elif method is not None:
            pruner(engines[asked]).tally = Tally()
        return engines[asked]

    def close_all() -> None:
        while engines:
            close(engines.popitem()[1])

    yield open_
    close_all()


@pytest.fixture(scope="package")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a server of the bundled model, one for all who ask it."""
    from .asked_server import FLAGS
    from .client import served

    with served(tmp_path_factory.mktemp("server") / "log", *FLAGS) as found:
        yield found


@pytest.fixture(scope="package")
def client(address: str) -> Any:
    from openai import OpenAI

    return OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=120)
