"""The page in a browser, for all tests of a file; a file may have another engine of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from sparsesight.demo.engine import Engine

if os.environ.get("TESTS_NEED_BROWSER"):  # not skipped either if these are missing
    import gradio  # noqa: F401
    import playwright  # noqa: F401


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    from sparsesight.hf.loading import load_model

    made = Engine(load_model(), max_new_tokens=8)
    yield made
    made.close()


@pytest.fixture(scope="module")
def url(engine: Engine) -> Iterator[str]:
    from sparsesight.demo.server import serving
    from sparsesight.demo.tabs import Choices

    with serving(engine, Choices("sparsevlm+", 128, 576, 0.1)) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from tests.demo.browser import CHROMIUM, NEEDS, api

    if CHROMIUM is None:
        pytest.fail(NEEDS)

    args = ["--disable-gpu", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with api.sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=args)
        yield made
        made.close()


@pytest.fixture
def page(browser: Any, url: str) -> Iterator[Any]:
    from tests.demo.browser import opened

    with opened(browser, url) as made:
        yield made
