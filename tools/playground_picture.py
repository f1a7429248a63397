"""Photograph the playground for the documentation: docs/images/playground.png, light and dark.

`python tools/playground_picture.py http://127.0.0.1:5001` with a server that serves the demo.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

_IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"


def main(url: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for scheme, name in (("light", "playground.png"), ("dark", "playground-dark.png")):
            page = browser.new_page(
                viewport={"width": 1180, "height": 940},
                color_scheme=scheme,  # type: ignore[arg-type]
            )
            _chat(page, url)
            page.screenshot(path=_IMAGES / name)
        browser.close()


def _chat(page: Page, url: str) -> None:
    page.goto(f"{url}/playground")
    expect(page.locator("#status")).to_contain_text("ready")
    for number, question in enumerate(("Which bar is the highest?", "What is the value of Q4?")):
        if number == 0:
            page.get_by_role("button", name=question).click()
            expect(page.locator("#picture-facts")).to_contain_text("tokens")
        page.get_by_label("Question").fill(question)
        page.get_by_role("button", name="Send").click()
        expect(page.locator(".turn.assistant footer button").nth(number)).to_be_visible()


if __name__ == "__main__":
    main(sys.argv[1])
