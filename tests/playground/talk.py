"""What a user does on the page."""

import re

from playwright.sync_api import Locator, Page, expect


def visit(page: Page, base_url: str) -> None:
    """Open it, and wait until the model is there."""
    page.goto(f"{base_url}/playground")
    expect(page.locator("#status")).to_contain_text("ready")


def ask(page: Page, text: str) -> None:
    """Write a question and send it; the answer is still to come."""
    page.get_by_label("Question").fill(text)
    page.get_by_role("button", name="Send").click()


def answer_to(page: Page, text: str) -> Locator:
    """Ask, and wait for the whole answer: its element."""
    number = page.locator(".turn.assistant").count()
    ask(page, text)
    return whole_answer(page, number)


def whole_answer(page: Page, number: int = 0) -> Locator:
    turn = page.locator(".turn.assistant").nth(number)
    expect(turn.get_by_role("button", name="Retry")).to_be_visible()
    return turn.locator(".text")


def attach(page: Page, name: str, data: bytes, mime: str = "image/png") -> None:
    page.locator("#picture").set_input_files({"name": name, "mimeType": mime, "buffer": data})


def tokens_foretold(page: Page) -> int:
    found = re.search(r"(\d+) tokens", page.locator("#picture-facts").inner_text())
    assert found
    return int(found[1])
