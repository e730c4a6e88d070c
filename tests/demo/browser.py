"""What a user does in the page, in headless Chromium driven by Playwright."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sparsesight import bundled

api = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NEEDS = "needs Chromium, such as Debian's: apt install chromium"
# Set in continuous integration, where these tests must not be skipped: the fixture ``browser`` then fails instead.
REQUIRED = "TESTS_NEED_BROWSER"
marks = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None and not os.environ.get(REQUIRED), reason=NEEDS),
]
PATIENCE = 90_000  # milliseconds, for machines that do much else
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


def answers(number: int) -> dict[str, tuple[str, str]]:
    """Kind -> question and right answer, about a bundled picture."""
    asked = bundled.picture_questions()[bundled.pictures()[number].name]
    return {x["kind"]: (x["question"], x["answer"]) for x in asked}


@contextmanager
def opened(
    browser: Any, url: str, viewport: dict[str, int] = DESKTOP, scheme: str = "light"
) -> Iterator[Any]:
    """A page of a user of its own, which asks nobody but the server for anything and has no errors."""
    context = browser.new_context(viewport=viewport, color_scheme=scheme)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    strangers: list[str] = []
    errors: list[str] = []
    page.on(
        "request", lambda r: None if r.url.startswith((url, "data:", "blob:")) else strangers.append(r.url)
    )
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(url)
    page.locator("#ss-ask-run").wait_for()
    api.expect(page.locator("#ss-picture img").first).to_be_visible(timeout=PATIENCE)
    try:
        yield page
        assert not strangers and not errors
    finally:
        context.close()


def text(page: Any, selector: str, pattern: str) -> None:
    api.expect(page.locator(selector)).to_contain_text(re.compile(pattern), timeout=PATIENCE)


def choose(page: Any, number: int, kind: str) -> str:
    """Click an example picture, and one of the questions that are suggested for it; gives the right answer."""
    question, answer = answers(number)[kind]
    page.locator("#ss-scenes button").nth(number).click()
    page.locator("#ss-suggested button", has_text=question).click()
    api.expect(page.locator("#ss-question textarea")).to_have_value(question, timeout=PATIENCE)
    return answer


def answered(page: Any, answer: str) -> None:
    """The dense model's answer is this one."""
    api.expect(page.locator("#ss-dense textarea")).to_have_value(answer, timeout=PATIENCE)


def ask(page: Any) -> None:
    page.locator("#ss-ask-run").click()


def pick(page: Any, method: str) -> None:
    """Choose a method in the menu."""
    page.locator("#ss-method input").click()
    page.locator(f'#ss-method li[aria-label$="· {method}"]').click()


def upload(page: Any, path: Path) -> None:
    """Put a file in place of the picture."""
    page.locator(
        "#ss-picture button[aria-label='Remove Image'], #ss-picture button[aria-label='Clear']"
    ).first.click()
    put_in(page, path)


def put_in(page: Any, path: Path) -> None:
    """Give a file where no picture is."""
    page.locator("#ss-picture input[type=file]").set_input_files(str(path))
