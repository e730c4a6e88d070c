"""The page in a real browser: what is old looks old, and what is long is cut where it says so."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("gradio", reason="needs Gradio: pip install 'sparsesight[demo]'")
pytest.importorskip("playwright", reason="needs Playwright: pip install playwright")
from tests.demo.browser import PATIENCE, answered, api, ask, choose, text
from tests.demo.test_browser import browser, engine, page, pytestmark, url  # noqa: F401


def test_results_of_another_question_or_picture_are_dimmed(page: Any) -> None:  # noqa: F811
    old = page.locator("[data-old] #ss-answers")
    answer = choose(page, 1, "letter")
    ask(page)
    answered(page, answer)
    api.expect(page.locator("#ss-costs")).to_be_visible(timeout=PATIENCE)
    api.expect(old).to_have_count(0)
    page.locator("#ss-question textarea").fill("What color is the heart?")
    api.expect(old).to_have_css("opacity", "0.4", timeout=PATIENCE)
    page.locator("#ss-question textarea").fill("")
    ask(page)
    text(page, ".toast-body", "The question is empty")
    api.expect(old).to_have_count(1)
    answer = choose(page, 2, "letter")
    ask(page)
    answered(page, answer)
    api.expect(old).to_have_count(0, timeout=PATIENCE)
    page.locator("#ss-scenes button").nth(0).click()
    api.expect(old).to_have_css("opacity", "0.4", timeout=PATIENCE)


def test_the_chosen_method_ends_before_the_arrow(page: Any) -> None:  # noqa: F811
    shown = page.locator("#ss-method input")
    api.expect(shown).to_have_css("text-overflow", "ellipsis")
    assert shown.evaluate("it => parseFloat(getComputedStyle(it).paddingRight)") >= 24
