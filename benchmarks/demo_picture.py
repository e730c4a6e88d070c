"""A screenshot of the demo for the guide, taken in a headless browser after one question.

    python benchmarks/demo_picture.py

Writes docs/howto/demo.jpg. Needs Gradio, Playwright and the system's Chromium.
"""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import expect, sync_playwright

from sparsesight.demo.engine import Engine
from sparsesight.demo.page import Choices
from sparsesight.demo.server import serving
from sparsesight.hf.loading import load_model
from sparsesight.method_names import DEFAULT

TARGET = Path(__file__).resolve().parent.parent / "docs" / "howto" / "demo.jpg"
WAIT = 90_000  # milliseconds


def main() -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    engine = Engine(load_model(), max_new_tokens=8)
    with serving(engine, Choices(DEFAULT, 64, 576, 0.1)) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox"] if os.geteuid() == 0 else []
        )
        page = browser.new_page(viewport={"width": 1280, "height": 1200})
        page.goto(address)
        expect(page.locator("#ss-picture img").first).to_be_visible(timeout=WAIT)
        page.locator("#ss-ask-run").click()
        expect(page.locator("#ss-overlay img").first).to_be_visible(timeout=WAIT)
        page.wait_for_timeout(2000)  # the last numbers, and the picture's own transition
        seen = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        browser.close()
    engine.close()
    seen.save(TARGET, quality=80, optimize=True)
    print(f"{TARGET.name}: {seen.width} x {seen.height}, {TARGET.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
