"""A chat on the page, with a model that says what it is told."""

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, expect

from ..http.conftest import KEY
from ..http.parrot import Parrot, ParrotServer, parrot_server
from ..http.running_server import assert_well, wait_until
from .conftest import ELSEWHERE
from .talk import answer_to, ask, visit, whole_answer


def test_a_question_is_answered(page: Page, parrot: ParrotServer) -> None:
    visit(page, parrot.base_url)
    expect(answer_to(page, "Good morning!")).to_have_text("Good morning!")
    expect(answer_to(page, "And again.")).to_have_text("And again.")
    assert_well(parrot)


def test_enter_sends_and_shift_enter_does_not(page: Page, parrot: ParrotServer) -> None:
    visit(page, parrot.base_url)
    question = page.get_by_label("Question")
    question.focus()
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    assert question.input_value() == "one\ntwo"
    page.keyboard.press("Enter")
    expect(whole_answer(page)).to_contain_text("two")
    expect(page.locator(".turn.user .text")).to_have_text("one\ntwo")


def test_what_the_model_writes_is_shown_and_never_run(page: Page, parrot: ParrotServer) -> None:
    visit(page, parrot.base_url)
    evil = '<img src=x onerror="window.ran=1"> <script>window.ran=1</script> '
    evil += "[link](javascript:window.ran=1) **bold** `code`"
    answer = answer_to(page, evil)
    expect(answer).to_contain_text('<img src=x onerror="window.ran=1">')
    expect(answer).to_contain_text("[link](javascript:window.ran=1)")
    expect(answer.locator("strong")).to_have_text("bold")
    expect(answer.locator("code")).to_have_text("code")
    assert page.locator(".turn img, .turn a, .turn script").count() == 0
    assert page.evaluate("window.ran") is None


def test_markdown_becomes_headings_lists_and_code(page: Page, parrot: ParrotServer) -> None:
    visit(page, parrot.base_url)
    text = "# Title\n\ntwo *of* 2*3*4\n- one\n- two\n\n3. three\n\n```py\na < b\n```"
    answer = answer_to(page, text)
    expect(answer.locator("p")).to_have_text("two of 2*3*4")
    expect(answer.locator("em")).to_have_text("of")
    expect(answer.locator("h4")).to_have_text("Title")
    expect(answer.locator("ul li")).to_have_text(["one", "two"])
    expect(answer.locator("ol")).to_have_attribute("start", "3")
    expect(answer.locator("pre")).to_have_text("a < b")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("```print(1)``` it is", "<p><code>print(1)</code> it is</p>"),
        ("*.py and *.js, 5 *x + 3 * y", "<p>*.py and *.js, 5 *x + 3 * y</p>"),
        (
            "1. one\n- a\n- b\n2. two",
            "<ol><li>one</li></ol><ul><li>a</li><li>b</li></ul><ol><li>two</li></ol>",
        ),
    ],
)
def test_nothing_is_lost_in_markdown(
    page: Page, parrot: ParrotServer, text: str, shown: str
) -> None:
    visit(page, parrot.base_url)
    answer = answer_to(page, text)
    assert re.sub(r' start="\d"', "", answer.inner_html()) == shown
    numbers = [element.get_attribute("start") for element in answer.locator("ol").all()]
    assert numbers == ["1", "2"][: len(numbers)]


@pytest.mark.parametrize("how", ["button", "Escape"])
def test_stop_stops_the_server_too(page: Page, demo_checkpoint: Path, how: str) -> None:
    slow = Parrot(demo_checkpoint, step_s=0.05)
    with parrot_server(demo_checkpoint, slow) as server:
        visit(page, server.base_url)
        ask(page, "word " * 100)
        answer = page.locator(".turn.assistant .text")
        expect(answer).to_contain_text("word")
        if how == "button":
            page.get_by_role("button", name="Stop").click()
            expect(page.get_by_label("Question")).to_be_focused()
        else:
            page.keyboard.press("Escape")
        expect(page.locator(".turn.assistant footer")).to_contain_text("stopped")
        expect(page.locator("#announcement")).to_have_text("Stopped.")
        wait_until(server.is_idle, 5, "the server has stopped, too")
        assert answer.inner_text().count("word") < 100
        expect(page.get_by_role("button", name="Send")).to_be_enabled()
        slow.step_s = 0
        expect(answer_to(page, "Go on.")).to_have_text("Go on.")
        assert_well(server)


def test_a_question_can_be_edited_and_an_answer_had_again(page: Page, parrot: ParrotServer) -> None:
    visit(page, parrot.base_url)
    answer_to(page, "first")
    answer_to(page, "second")
    page.locator(".turn.user").first.get_by_role("button", name="Edit").click()
    question = page.get_by_label("Question")
    expect(question).to_have_value("first")
    expect(question).to_be_focused()
    expect(page.locator(".turn")).to_have_count(4)
    ask(page, "first, better")
    expect(page.locator(".turn")).to_have_count(2)
    expect(whole_answer(page)).to_have_text("first, better")
    page.get_by_role("button", name="Retry").click()
    expect(question).to_be_focused()
    expect(whole_answer(page)).to_have_text("first, better")
    expect(page.locator(".turn")).to_have_count(2)
    page.get_by_role("button", name="New chat").click()
    expect(page.locator(".turn")).to_have_count(0)


def test_an_edit_can_be_thought_better_of(page: Page, parrot: ParrotServer) -> None:
    visit(page, parrot.base_url)
    answer_to(page, "asked")
    question = page.get_by_label("Question")
    question.fill("being written")
    page.get_by_role("button", name="Edit").click()
    expect(question).to_have_value("asked")
    page.get_by_role("button", name="Cancel edit").click()
    expect(question).to_have_value("being written")
    expect(page.locator(".turn")).to_have_count(2)
    page.get_by_role("button", name="Edit").click()
    ask(page, "asked anew")
    expect(whole_answer(page)).to_have_text("asked anew")
    expect(question).to_have_value("being written")


def test_a_refusal_is_shown_and_the_chat_goes_on(page: Page, parrot: ParrotServer) -> None:
    visit(page, parrot.base_url)
    ask(page, "word " * 2000)
    expect(page.get_by_role("alert").filter(has_text="tokens")).to_contain_text("1024")
    # With the long one before it, it would be refused, too.
    expect(answer_to(page, "shorter")).to_have_text("shorter")
    assert_well(parrot)


def test_the_end_is_in_sight_unless_one_reads_further_up(page: Page, demo_checkpoint: Path) -> None:
    slow = Parrot(demo_checkpoint)
    with parrot_server(demo_checkpoint, slow) as server:
        visit(page, server.base_url)
        answer_to(page, "a line\n\n" * 60)
        expect(page.get_by_role("button", name="Retry")).to_be_in_viewport(ratio=1)
        slow.step_s = 0.02
        ask(page, "word " * 60)
        expect(page.locator(".turn.assistant .text").last).to_contain_text("word word")
        page.locator("#log").evaluate("log => { log.scrollTop = 0; }")
        whole_answer(page, 1)
        assert page.locator("#log").evaluate("log => log.scrollTop") == 0


def test_a_server_that_is_gone_is_an_error_not_a_hang(page: Page, demo_checkpoint: Path) -> None:
    with parrot_server(demo_checkpoint, Parrot(demo_checkpoint)) as server:
        visit(page, server.base_url)
    page.route("**/v1/chat/completions", lambda route: route.abort())
    ask(page, "anybody there?")
    expect(page.locator(".turn .error")).to_have_text("The server does not answer.")


def test_a_refusal_of_another_kind_is_not_about_keys(page: Page, parrot: ParrotServer) -> None:
    page.goto(f"http://{ELSEWHERE}:{urlsplit(parrot.base_url).port}/playground")
    expect(page.locator("#status")).to_contain_text("start it with --api-key, or with --no-auth")


def test_a_key_is_asked_for_and_kept_nowhere(page: Page, demo_checkpoint: Path) -> None:
    with parrot_server(demo_checkpoint, Parrot(demo_checkpoint), api_key=KEY) as server:
        page.goto(f"{server.base_url}/playground")
        expect(page.locator("#status")).to_contain_text("wants a key")
        key = page.get_by_label("Key", exact=True)
        expect(key).to_be_focused()
        key.fill("wrong")
        key.press("Enter")
        expect(page.locator("#status")).to_contain_text("wants a key")
        key.fill(KEY)
        key.press("Tab")
        expect(page.locator("#status")).to_contain_text("ready")
        expect(answer_to(page, "Hello.")).to_have_text("Hello.")
        kept = "JSON.stringify([localStorage, sessionStorage, document.cookie, location.href])"
        assert KEY not in page.evaluate(kept)
        page.reload()
        expect(page.locator("#status")).to_contain_text("wants a key")
