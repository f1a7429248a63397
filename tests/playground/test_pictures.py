"""Pictures on the page: how they get there, and what is said of them beforehand."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from ..http.parrot import ParrotServer
from ..http.pictures import colourful, encoded, plain_png
from ..http.running_server import RunningServer, assert_well
from .talk import answer_to, attach, tokens_foretold, visit, whole_answer


@pytest.mark.parametrize(
    "size", [(300, 200), (200, 300), (1000, 100), (90, 1000), (40, 40), (1344, 1008)]
)
def test_its_tokens_are_foretold(page: Page, demo: RunningServer, size: tuple[int, int]) -> None:
    visit(page, demo.base_url)
    attach(page, "picture.png", plain_png(*size))
    expect(page.locator("#picture-facts")).to_contain_text(f"{size[0]} × {size[1]}")
    foretold = tokens_foretold(page)
    page.get_by_label("Most tokens").fill("2")
    answer_to(page, "What is it?")
    expect(page.locator(".turn.assistant footer")).to_contain_text(f", {foretold} of them picture")
    assert_well(demo)


def test_fewer_crops_are_fewer_tokens(page: Page, demo: RunningServer) -> None:
    visit(page, demo.base_url)
    attach(page, "picture.png", plain_png(300, 200))
    expect(page.locator("#picture-facts")).to_contain_text("tokens")
    many = tokens_foretold(page)
    page.get_by_label("Crops of a picture").fill("1")
    few = tokens_foretold(page)
    assert few < many
    page.get_by_label("Most tokens").fill("2")
    answer_to(page, "What is it?")
    expect(page.locator(".turn.assistant footer")).to_contain_text(f", {few} of them picture")


def test_an_answer_says_what_it_cost(page: Page, demo: RunningServer) -> None:
    visit(page, demo.base_url)
    attach(page, "picture.png", encoded(colourful(), "PNG"))
    answer_to(page, "What is it?")
    line = page.locator(".turn.assistant footer").inner_text()
    for part in (r"queue [\d.]+ ms", r"picture [\d.]+ ms", r"first token \d+ ms", r"tokens/s"):
        assert re.search(part, line), line


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP", "GIF", "BMP"])
def test_every_format_of_the_server_goes_as_it_is(
    page: Page, parrot: ParrotServer, file_format: str
) -> None:
    visit(page, parrot.base_url)
    mime = f"image/{file_format.lower()}"
    attach(page, "picture", encoded(colourful(), file_format), mime)
    expect(page.locator("#picture-facts")).to_contain_text("48 × 32")
    expect(answer_to(page, "And?")).to_contain_text("And?")
    assert page.locator(".turn.user img").get_attribute("src").startswith(f"data:{mime};base64,")  # type: ignore[union-attr]
    assert_well(parrot)


def test_what_only_a_browser_can_read_is_sent_as_png(page: Page, parrot: ParrotServer) -> None:
    visit(page, parrot.base_url)
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" width="30" height="20"></svg>'
    # Chromium decodes SVG in elements only, not for createImageBitmap: AVIF stands for the rest.
    attach(page, "drawing.svg", svg, "image/svg+xml")
    expect(page.locator("#picture-error")).to_contain_text("drawing.svg is not a picture")
    attach(page, "drawing.avif", encoded(colourful(), "AVIF"), "image/avif")
    expect(page.locator("#picture-facts")).to_contain_text("drawing.png, 48 × 32")
    expect(page.locator("#picture-error")).to_have_text("")
    expect(answer_to(page, "And?")).to_contain_text("And?")


def test_a_file_that_is_no_picture_is_refused_by_the_page(page: Page, parrot: ParrotServer) -> None:
    visit(page, parrot.base_url)
    attach(page, "notes.txt", b"no picture")
    error = page.get_by_role("alert").filter(has_text="notes.txt")
    expect(error).to_have_text("notes.txt is not a picture that this browser can read.")
    expect(page.locator("#attachment")).to_be_hidden()
    expect(answer_to(page, "Never mind.")).to_have_text("Never mind.")


_HAND_OVER = """async ([kind, bytes]) => {
  const file = new File([new Uint8Array(bytes)], `${kind}.png`, { type: "image/png" });
  const data = new DataTransfer();
  data.items.add(file);
  const event = kind === "paste"
    ? new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true })
    : new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
  document.getElementById("question").dispatchEvent(event);
}"""


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_a_picture_can_be_pasted_and_dropped(page: Page, parrot: ParrotServer, kind: str) -> None:
    visit(page, parrot.base_url)
    page.evaluate(_HAND_OVER, [kind, list(plain_png(20, 10))])
    expect(page.locator("#picture-facts")).to_contain_text(f"{kind}.png, 20 × 10")
    page.get_by_role("button", name="Remove picture").click()
    expect(page.locator("#attachment")).to_be_hidden()
    answer_to(page, "Without.")
    assert page.locator(".turn.user img").count() == 0


_DROP = """bytes => {
  for (const [name, content] of bytes) {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(content)], name, { type: "image/png" }));
    document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
  }
}"""


def test_a_question_waits_for_its_picture(page: Page, parrot: ParrotServer) -> None:
    visit(page, parrot.base_url)
    page.get_by_label("Question").fill("What is it?")
    page.evaluate(
        f"bytes => {{ ({_DROP})(bytes); document.getElementById('send').click(); }}",
        [["large.png", list(plain_png(1500, 1500))]],
    )
    whole_answer(page)
    expect(page.locator(".turn.user img")).to_have_attribute("alt", "Picture: large.png")
    expect(page.locator("#attachment")).to_be_hidden()
    expect(page.get_by_label("Question")).to_have_value("")


def test_a_question_whose_picture_cannot_be_read_is_not_sent(
    page: Page, parrot: ParrotServer
) -> None:
    visit(page, parrot.base_url)
    attach(page, "good.png", plain_png(20, 10))
    expect(page.locator("#picture-facts")).to_contain_text("good.png")
    page.get_by_label("Question").fill("What is it?")
    page.evaluate(
        f"bytes => {{ ({_DROP})(bytes); document.getElementById('send').click(); }}",
        [["bad.png", list(b"no picture")]],
    )
    expect(page.locator("#picture-error")).to_contain_text("bad.png is not a picture")
    expect(page.locator("#picture-facts")).to_contain_text("good.png")
    expect(page.locator(".turn")).to_have_count(0)
    expect(page.get_by_label("Question")).to_have_value("What is it?")


def test_the_last_of_two_pictures_stays(page: Page, parrot: ParrotServer) -> None:
    visit(page, parrot.base_url)
    page.evaluate(
        _DROP,
        [["slow.png", list(plain_png(1500, 1500))], ["quick.png", list(plain_png(20, 10))]],
    )
    expect(page.locator("#picture-facts")).to_contain_text("quick.png")
    page.wait_for_timeout(500)
    expect(page.locator("#picture-facts")).to_contain_text("quick.png")


_HAND_OVER_TEXT = """kind => {
  const data = new DataTransfer();
  data.setData("text/plain", "a1\\tb1");
  let event;
  if (kind === "paste") {
    data.setData("text/html", "<table>…</table>");
    data.items.add(new File([new Uint8Array(9)], "cells.png", { type: "image/png" }));
    event = new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true });
  } else event = new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
  document.getElementById("question").dispatchEvent(event);
  return event.defaultPrevented;
}"""


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_text_is_left_to_the_box(page: Page, parrot: ParrotServer, kind: str) -> None:
    """The cells of a sheet, which come as a picture of them, too; and words dragged to the box."""
    visit(page, parrot.base_url)
    assert page.evaluate(_HAND_OVER_TEXT, kind) is False
    expect(page.locator("#picture-error")).to_have_text("")
    expect(page.locator("#attachment")).to_be_hidden()


def test_a_sample_comes_with_its_question(page: Page, parrot: ParrotServer) -> None:
    visit(page, parrot.base_url)
    page.get_by_role("button", name="What number is this?").click()
    expect(page.get_by_label("Question")).to_have_value("What number is this?")
    expect(page.locator("#picture-facts")).to_contain_text("sample-number.png")
    page.get_by_label("Question").press("Enter")
    expect(whole_answer(page)).to_contain_text("What number is this?")
    sample = Path("server/playground/sample-number.png").read_bytes()
    source = page.locator(".turn.user img").get_attribute("src")
    assert source is not None
    assert len(source) > len(sample)
