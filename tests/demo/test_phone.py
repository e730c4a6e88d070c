"""The page on a phone, in a real browser: Ask and the answer are in view, nothing sticks out; the figure to share."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("gradio", reason="needs Gradio: pip install 'sparsesight[demo]'")
pytest.importorskip("playwright", reason="needs Playwright: pip install playwright")
from tests.demo.browser import PATIENCE, PHONE, answered, api, ask, choose, opened
from tests.demo.test_browser import browser, engine, pytestmark, url  # noqa: F401


def test_every_tab_and_the_figure(browser: Any, url: str) -> None:  # noqa: F811
    with opened(browser, url, PHONE) as page:
        api.expect(page.locator("#ss-ask-run")).to_be_in_viewport(ratio=1)
        answer = choose(page, 1, "letter")
        ask(page)
        answered(page, answer)
        api.expect(page.locator("#ss-words")).not_to_contain_text("ASSISTANT", timeout=PATIENCE)
        for shown in ("#ss-ask-status", "#ss-dense", "#ss-ask-run"):
            api.expect(page.locator(shown)).to_be_in_viewport(ratio=1, timeout=PATIENCE)
        with page.expect_download(timeout=PATIENCE) as started:
            page.locator("#ss-share").click()
        assert started.value.suggested_filename == "sparsesight.png"
        with open(started.value.path(), "rb") as file:
            figure = Image.open(io.BytesIO(file.read()))
        assert figure.format == "PNG" and figure.width > 1500
        page.get_by_role("tab", name="Compare", exact=True).click()
        page.locator("#ss-methods label", has_text="divprune").click()
        page.locator("#ss-compare-run").click()
        api.expect(page.locator("#ss-kept img").nth(5)).to_be_visible(timeout=PATIENCE)
        api.expect(page.locator("#ss-grid")).to_be_in_viewport(ratio=0.5, timeout=PATIENCE)
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        assert page.evaluate("document.documentElement.scrollHeight") < 2700
        page.get_by_role("tab", name="Change the question", exact=True).click()
        page.locator("#ss-watch textarea").press_sequentially("Where is the red ring?")
        api.expect(page.locator("#ss-pair img").nth(1)).to_be_in_viewport(ratio=1, timeout=PATIENCE)
        api.expect(page.locator("#ss-watch textarea")).to_be_in_viewport(ratio=1)
