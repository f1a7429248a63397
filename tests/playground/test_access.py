"""Everyone can use the page: by keyboard, with a screen reader, by day and night, by a proxy."""

import json

import pytest
from playwright.sync_api import Page, expect

from ..clients.node import SCRIPTS
from ..http.parrot import ParrotServer
from ..http.pictures import plain_png
from ..http.running_server import RunningServer
from .prefix_proxy import below
from .talk import answer_to, attach, visit, whole_answer


def test_a_keyboard_does(page: Page, parrot: ParrotServer) -> None:
    visit(page, parrot.base_url)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the question")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    seen = []
    for _ in range(8):
        seen.append(page.evaluate("document.activeElement.id"))
        page.keyboard.press("Tab")
    for control in ("picture", "send", "tab-sampling", "temperature"):
        assert control in seen, seen
    page.locator("#tab-sampling").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="JSON schema")).to_be_focused()
    expect(page.get_by_label("JSON schema", exact=True).last).to_be_visible()
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_label("Temperature")).to_be_visible()
    page.get_by_label("Question").focus()
    page.keyboard.type("typed")
    page.keyboard.press("Enter")
    expect(whole_answer(page)).to_have_text("typed")


def test_a_screen_reader_hears_the_whole_answer(page: Page, parrot: ParrotServer) -> None:
    visit(page, parrot.base_url)
    answer_to(page, "Say this.")
    expect(page.get_by_role("status").filter(has_text="Say this.")).to_have_count(1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(page: Page, parrot: ParrotServer, scheme: str) -> None:
    """axe-core's rules: names, roles, contrast, structure; with a chat, a picture and each tab."""
    axe = SCRIPTS / "node_modules" / "axe-core" / "axe.min.js"
    if not axe.exists():
        pytest.skip("axe-core is not installed: npm ci in tests/clients/js")
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    visit(page, parrot.base_url)
    page.evaluate(axe.read_text())
    found = [page.evaluate("axe.run()")]
    answer_to(page, "# Title\n- one `code`\n- two")
    attach(page, "picture.png", plain_png(20, 10))
    for tab in ("JSON schema", "Code"):
        page.get_by_role("tab", name=tab).click()
        found.append(page.evaluate("axe.run()"))
    violations = [
        (violation["id"], [node["html"] for node in violation["nodes"]])
        for result in found
        for violation in result["violations"]
    ]
    assert violations == [], json.dumps(violations, indent=1)


def test_there_is_a_light_and_a_dark_look(page: Page, parrot: ParrotServer) -> None:
    visit(page, parrot.base_url)
    looks = set()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        looks.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert looks == {"rgb(255, 255, 255)", "rgb(22, 24, 29)"}


def test_a_small_screen_shows_all_of_it(page: Page, parrot: ParrotServer) -> None:
    page.set_viewport_size({"width": 360, "height": 640})
    visit(page, parrot.base_url)
    answer_to(page, "w" * 200)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.get_by_label("Temperature").scroll_into_view_if_needed()
    expect(page.get_by_label("Temperature")).to_be_in_viewport()


@pytest.mark.parametrize("start", ["/playground", "/"])
def test_it_works_below_a_prefix(page: Page, parrot: ParrotServer, start: str) -> None:
    with below(b"/team/phi", parrot.base_url) as address:
        page.goto(f"{address}/team/phi{start}")
        expect(page.locator("#status")).to_contain_text("ready")
        expect(answer_to(page, "Through a proxy.")).to_have_text("Through a proxy.")
        page.get_by_role("tab", name="Code").click()
        assert f"{address}/team/phi/v1/chat/completions" in page.locator("#code").inner_text()
        page.close()


def test_an_answer_by_a_schema_is_laid_out(page: Page, demo: RunningServer) -> None:
    visit(page, demo.base_url)
    page.get_by_role("tab", name="JSON schema").click()
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    schema["additionalProperties"] = False
    page.locator("#schema").fill(json.dumps(schema))
    page.get_by_label("Answer in JSON by this schema").check()
    answer = answer_to(page, "Well?")
    assert json.loads(answer.locator("pre").inner_text()).keys() == {"ok"}


def test_an_answer_is_laid_out_as_it_was_written(page: Page, parrot: ParrotServer) -> None:
    """Numbers that JavaScript would write in another way, and names that it would sort."""
    visit(page, parrot.base_url)
    page.get_by_role("tab", name="JSON schema").click()
    page.get_by_label("Answer in JSON by this schema").check()
    answer = answer_to(page, '{"b": 1.0, "2": [90071992547409931, {}], "a": "x,{\\"y"}')
    assert answer.locator("pre").inner_text().split("\n") == [
        "{",
        '  "b": 1.0,',
        '  "2": [',
        "    90071992547409931,",
        "    {}",
        "  ],",
        '  "a": "x,{\\"y"',
        "}",
    ]


def test_a_schema_that_is_no_json_is_pointed_out(page: Page, parrot: ParrotServer) -> None:
    visit(page, parrot.base_url)
    page.get_by_role("tab", name="JSON schema").click()
    page.locator("#schema").fill("{nonsense")
    page.get_by_label("Answer in JSON by this schema").check()
    page.get_by_role("tab", name="Sampling").click()
    page.get_by_label("Question").fill("Well?")
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#schema-error")).to_contain_text("The schema is not JSON")
    expect(page.locator("#schema-error")).to_be_visible()
    expect(page.locator("#schema")).to_be_focused()
    expect(page.get_by_label("Question")).to_have_value("Well?")
    page.get_by_label("Answer in JSON by this schema").uncheck()
    expect(page.locator("#schema-error")).to_have_text("")


def test_an_answer_outlives_a_retry_that_cannot_be_sent(page: Page, parrot: ParrotServer) -> None:
    visit(page, parrot.base_url)
    answer = answer_to(page, "Well?")
    page.get_by_role("tab", name="JSON schema").click()
    page.locator("#schema").fill("{nonsense")
    page.get_by_label("Answer in JSON by this schema").check()
    page.get_by_role("tab", name="Code").click()
    expect(page.locator("#code")).to_contain_text("The schema is not JSON")
    page.get_by_role("button", name="Retry").click()
    expect(page.locator("#schema-error")).to_be_visible()
    expect(answer).to_have_text("Well?")
