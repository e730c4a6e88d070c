"""The page in a real browser: headless Chromium of the system's, driven by Playwright."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from PIL import Image

from sparsesight import bundled
from sparsesight.demo import page as page_module
from sparsesight.demo import runs
from sparsesight.demo.asked import Asked
from sparsesight.demo.engine import Engine
from sparsesight.demo.tabs import COMPARED
from sparsesight.demo.uploads import MAX_BYTES
from tests.in_turn import in_turn

pytest.importorskip("gradio", reason="needs Gradio: pip install 'sparsesight[demo]'")
pytest.importorskip("playwright", reason="needs Playwright: pip install playwright")
from tests.demo.browser import (
    DESKTOP,
    PATIENCE,
    PHONE,
    answered,
    answers,
    api,
    ask,
    choose,
    marks,
    opened,
    pick,
    put_in,
    text,
    upload,
)

pytestmark = marks


@pytest.mark.parametrize(
    ("viewport", "scheme"), in_turn([DESKTOP, PHONE], ["light", "dark"]), ids=lambda x: str(x)[:12]
)
def test_it_loads_and_nothing_sticks_out(
    browser: Any, url: str, viewport: dict[str, int], scheme: str
) -> None:
    with opened(browser, url, viewport, scheme) as page:
        assert page.title() == "SparseSight"
        text(page, "h1", "^SparseSight$")
        method = page.locator("#ss-method input")  # a long name ends before the arrow
        api.expect(method).to_have_css("text-overflow", "ellipsis")
        assert method.evaluate("it => parseFloat(getComputedStyle(it).paddingRight)") >= 24
        for tab in ("Compare", "Change the question", "Ask"):
            page.get_by_role("tab", name=tab, exact=True).click()
            assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        assert page.evaluate(
            "document.body.parentElement.classList.contains('dark') || "
            "document.body.classList.contains('dark')"
        ) is (scheme == "dark")


def test_ask_about_an_example_and_move_the_slider(page: Any) -> None:
    answer = choose(page, 1, "letter")
    ask(page)
    text(page, "#ss-costs", r"Visual tokens per layer\s*576[\s\S]*KV cache")
    answered(page, answer)
    text(
        page,
        "#ss-ask-status",
        "(Same|Different) answer; [0-9.]+x less prefill arithmetic, [0-9]+ % less KV cache",
    )
    text(page, "#ss-words", "letter")
    text(page, "#ss-sparse", r"sparsevlm\+, retain 128")
    text(page, "#ss-caption", r"Stage 3 of 3.*kept \d+ of 576")
    api.expect(page.locator("#ss-caption .ss-key li")).to_have_text(["kept", "dropped"], timeout=PATIENCE)
    overlay = page.locator("#ss-overlay img")
    last = overlay.get_attribute("src")
    slider = page.locator("#ss-stage input[type=range]")
    slider.focus()
    slider.press("ArrowLeft")
    text(page, "#ss-caption", "Stage 2 of 3")
    slider.press("ArrowLeft")
    text(page, "#ss-caption", "Stage 1 of 3")
    kept = overlay.get_attribute("src")
    page.locator("#ss-layer label", has_text="Scores").click()
    api.expect(overlay).not_to_have_attribute("src", kept, timeout=PATIENCE)
    text(page, "#ss-caption .ss-key", "attention of the raters.*: low.*high.*kept patches are outlined")
    slider.focus()
    slider.press("ArrowLeft")
    text(page, "#ss-caption", "Before any stage: all 576")
    api.expect(overlay).not_to_have_attribute("src", last, timeout=PATIENCE)
    api.expect(overlay).to_be_visible()


def test_an_upload_is_asked_about(page: Any, tmp_path: Path) -> None:
    question, answer = answers(2)["shape"]
    Image.open(bundled.pictures()[2]).convert("RGB").save(tmp_path / "mine.bmp")
    upload(page, tmp_path / "mine.bmp")
    page.locator("#ss-question textarea").fill(question)
    ask(page)
    answered(page, answer)
    text(page, "#ss-costs", r"Visual tokens per layer\s*576")


def test_a_bad_file_is_a_sentence_and_is_taken_away(page: Any, tmp_path: Path) -> None:
    def refused(words: str) -> None:
        toast = page.locator(".toast-body", has_text=re.compile(words))
        api.expect(toast).to_be_visible(timeout=PATIENCE)
        # A file that is given before the last one is taken away would be taken away with it.
        api.expect(page.locator("#ss-picture img")).to_have_count(0, timeout=PATIENCE)

    (tmp_path / "words.png").write_text("no picture at all")
    upload(page, tmp_path / "words.png")
    refused("'words.png' is not a picture in PNG, .* or TIFF: save it as PNG or JPEG")
    ask(page)
    text(page, "body", "There is no picture: upload one, or choose an example")

    Image.new("1", (6000, 5000)).save(tmp_path / "wide.png")
    put_in(page, tmp_path / "wide.png")
    refused("'wide.png' has 6000 x 5000 = 30,000,000 pixels, more than the limit of 25,000,000")

    (tmp_path / "large.png").write_bytes(b"\x89PNG" + bytes(MAX_BYTES))
    put_in(page, tmp_path / "large.png")
    refused(r"exceed the maximum allowed size of 20.*large\.png")

    (tmp_path / "notes.txt").write_text("not even by its name")
    put_in(page, tmp_path / "notes.txt")
    refused("'notes.txt' is not a picture in PNG, .* or TIFF: save it as PNG or JPEG")

    dropped = page.evaluate_handle(
        "() => { const t = new DataTransfer(); t.items.add(new File(['x'], 'a.pdf')); return t; }"
    )
    page.dispatch_event("#ss-picture .upload-container", "drop", {"dataTransfer": dropped})
    refused("'a.pdf' is not a picture")


def test_a_mistake_is_a_sentence_in_its_place(page: Any) -> None:
    page.locator("#ss-question textarea").fill("Is <image> red?")
    ask(page)
    text(page, "#ss-ask-status .problem", "The question contains '<image>', which stands for the picture")
    text(page, ".toast-body", "leave it out")
    page.locator("#ss-question textarea").fill("")
    ask(page)
    text(page, "body", "The question is empty: ask something about the picture")


@pytest.mark.slow  # `test_runs.py` compares, and so does a phone
def test_compare(page: Any) -> None:
    answer = choose(page, 0, "neighbor")
    page.get_by_role("tab", name="Compare", exact=True).click()
    page.locator("#ss-methods button").first.click()
    for name in COMPARED[:2]:  # they are chosen at first
        page.locator("#ss-methods label", has_text=re.compile(f"^ ?{name} ?$")).click()
    text(page, "#ss-methods", r"Methods \(2 chosen\)")
    page.locator("#ss-compare-run").click()
    pictures = page.locator("#ss-kept .grid-wrap img")
    api.expect(pictures).to_have_count(4, timeout=PATIENCE)
    text(page, "#ss-kept-key", "kept.*dropped")
    text(page, "#ss-grid", "own retain.*KV cache")
    text(
        page,
        "#ss-grid",
        rf"dense[\s\S]*{answer}[\s\S]*{re.escape(COMPARED[2])}[\s\S]*{COMPARED[3]}[\s\S]*(same|differs)",
    )
    assert len(re.findall("same|differs", page.locator("#ss-grid").inner_text())) == 4
    text(page, "#ss-compare-status .verdict", "keeps? the dense answer")


def test_a_question_chosen_while_its_picture_is_still_coming_stays(
    page: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    suggestions = page_module._suggestions

    def slow(path: Path) -> list[list[str]]:
        time.sleep(0.8)
        return suggestions(path)

    monkeypatch.setattr(page_module, "_suggestions", slow)
    choose(page, 0, "neighbor")
    time.sleep(1.6)  # the picture has come by now
    api.expect(page.locator("#ss-question textarea")).to_have_value(answers(0)["neighbor"][0])


@pytest.mark.slow  # `test_engine.py` has two users
def test_two_users_at_once(browser: Any, url: str) -> None:
    with opened(browser, url) as one, opened(browser, url, PHONE, "dark") as two:
        first, second = choose(one, 0, "letter"), choose(two, 3, "neighbor")
        assert first != second
        for page in (one, two):
            ask(page)
        for page, answer in ((one, first), (two, second)):
            answered(page, answer)
            text(page, "#ss-costs", "KV cache")
        sources = [page.locator("#ss-overlay img").get_attribute("src") for page in (one, two)]
        assert sources[0] != sources[1]
        slider = one.locator("#ss-stage input[type=range]")
        slider.focus()
        slider.press("ArrowLeft")
        text(one, "#ss-caption", "Stage 2 of 3")
        text(two, "#ss-caption", "Stage 3 of 3")


def test_stop_and_then_ask_again(page: Any, engine: Engine) -> None:
    """The model is slow for a while: Stop takes effect within a layer, not after the answer."""
    layers = engine.loaded.model.get_decoder().layers
    hooks = [layer.register_forward_pre_hook(lambda *_: time.sleep(1)) for layer in layers]
    try:
        answer = choose(page, 2, "color")
        ask(page)
        text(page, "#ss-ask-status", "dense answer: reading")
        page.locator("#ss-ask-stop").click()
        start = time.monotonic()
        text(page, "#ss-ask-status", "Stopped")
        assert time.monotonic() - start < len(layers)
    finally:
        for hook in hooks:
            hook.remove()
    ask(page)
    answered(page, answer)
    text(page, "#ss-costs", "KV cache")


@pytest.mark.slow  # `test_wiring.py` has what waits
def test_a_run_that_waits_does_not_begin_once_the_page_asked_again(
    browser: Any, url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its turn comes after the second question was checked."""
    begun: list[str] = []
    whole = runs.ask

    def ask_and_note(engine: Engine, asked: Asked, stop: Event) -> Iterator[runs.AskView]:
        begun.append(asked.question)
        return whole(engine, asked, stop)

    monkeypatch.setattr(runs, "ask", ask_and_note)
    go = Event()
    layer = engine.loaded.model.get_decoder().layers[0]
    hook = layer.register_forward_pre_hook(lambda *_: go.wait(60) and None)
    try:
        with opened(browser, url) as busy, opened(browser, url) as page:
            ask(busy)
            text(busy, "#ss-ask-status", "dense answer: reading")
            asked = []
            for kind in ("letter", "color"):
                choose(page, 2, kind)
                asked.append(page.locator("#ss-question textarea").input_value())
                ask(page)
                text(page, "#ss-ask-status", "Waiting for a turn")
                page.wait_for_timeout(1000)  # the check hands over to the run
            go.set()
            text(page, "#ss-costs", "KV cache")
            assert begun[1:] == asked[1:]
    finally:
        go.set()
        hook.remove()


def test_results_of_another_question_or_picture_are_dimmed(page: Any) -> None:
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


def test_results_of_another_budget_or_method_are_dimmed(page: Any) -> None:
    """Verdict, pictures and costs, in the tabs whose run takes the setting: Compare has budgets of its own."""

    def again() -> None:
        ask(page)
        api.expect(page.locator("[data-old] #ss-ask-status")).to_have_count(0, timeout=PATIENCE)
        text(page, "#ss-ask-status .verdict", "answer")

    answer = choose(page, 1, "letter")
    ask(page)
    answered(page, answer)
    text(page, "#ss-ask-status .verdict", "answer")
    slider = page.locator("#ss-retain input[type=range]")
    for change in (lambda: slider.press("ArrowLeft"), lambda: pick(page, "random")):
        api.expect(page.locator("[data-old]")).to_have_count(0)
        change()
        for dimmed in ("#ss-ask-status .verdict", ".ss-result:has(#ss-overlay)", ".ss-result:has(#ss-costs)"):
            shown = page.locator(f"[data-old] {dimmed}")
            api.expect(shown).to_have_css("opacity", "0.4", timeout=PATIENCE)
        assert page.locator("[data-old] #ss-compare-status").count() == 0
        again()
    page.get_by_role("tab", name="Compare", exact=True).click()
    page.locator("#ss-budgets label").first.click()
    api.expect(page.locator("[data-old] #ss-compare-status")).to_have_count(1, timeout=PATIENCE)
    api.expect(page.locator("[data-old] #ss-kept-key")).to_have_css("opacity", "0.4", timeout=PATIENCE)
    assert page.locator("[data-old] #ss-ask-status").count() == 0
    page.get_by_role("tab", name="Change the question", exact=True).click()
    page.locator("#ss-watch textarea").fill("Is <image> red?")  # which is refused
    api.expect(page.locator("[data-old] #ss-watch-status")).to_have_count(1, timeout=PATIENCE)
    assert page.locator("[data-old] #ss-ask-status").count() == 0


def test_every_tab_and_the_figure(browser: Any, url: str) -> None:
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
        with Image.open(started.value.path()) as figure:
            assert figure.format == "PNG" and figure.width > 1500
        page.get_by_role("tab", name="Compare", exact=True).click()
        api.expect(page.locator("#ss-methods label", has_text="divprune")).to_be_hidden()  # folded
        assert page.evaluate("document.documentElement.scrollHeight") < 1700
        page.locator("#ss-methods button").first.click()
        page.locator("#ss-methods label", has_text="divprune").click()
        text(page, "#ss-methods", r"Methods \(5 chosen\)")
        page.locator("#ss-methods button").first.click()
        page.locator("#ss-compare-run").click()
        api.expect(page.locator("#ss-kept .grid-wrap img")).to_have_count(10, timeout=2 * PATIENCE)
        api.expect(page.locator("#ss-grid")).to_be_in_viewport(ratio=0.5, timeout=PATIENCE)
        grid = page.locator("#ss-grid table")  # a row is a card: nothing to scroll sideways
        assert grid.evaluate(
            "it => it.scrollWidth <= it.parentElement.clientWidth && it.scrollWidth < innerWidth"
        )
        api.expect(grid.locator("thead")).to_be_hidden(timeout=PATIENCE)
        assert grid.locator("tbody tr").last.bounding_box()["height"] < 60  # two lines
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        assert page.evaluate("document.documentElement.scrollHeight") < 3000
        page.get_by_role("tab", name="Change the question", exact=True).click()
        (main, letter), (other, color) = answers(1)["letter"], answers(1)["color"]
        page.locator("#ss-watch textarea").click()
        page.keyboard.insert_text(other)  # as a paste does, and as the first that gets into the box
        text(page, "#ss-watch-status", r"\d+ of the \d+ patches of the first stage")
        captions = page.locator("#ss-pair .caption-label")
        api.expect(captions).to_have_text([f"{main} {letter}", f"{other} {color}"], timeout=PATIENCE)
        pair = page.locator("#ss-pair .grid-wrap img")
        assert pair.nth(0).get_attribute("src") != pair.nth(1).get_attribute("src")
        api.expect(page.locator("#ss-pair img").nth(1)).to_be_in_viewport(ratio=1, timeout=PATIENCE)
        api.expect(page.locator("#ss-watch textarea")).to_be_in_viewport(ratio=1)
        page.locator("#ss-watch textarea").press_sequentially(
            " Is <image> red?"
        )  # refused: what was found is old
        found = page.locator("[data-old] #ss-watch-status .found, #ss-watch-status .problem")
        api.expect(found).to_have_count(1, timeout=PATIENCE)
