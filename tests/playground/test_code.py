"""The programs that the page writes do what the page did."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from ..clients.node import SCRIPTS, node
from ..http.parrot import ParrotServer
from ..http.pictures import plain_png
from .talk import answer_to, attach, visit

# Everything that a shell, Python or JavaScript might take for its own.
TEXT = r"""It's "so": $HOME `date` \n ${x} {y} # %s"""


def code_of(page: Page, language: str) -> str:
    page.get_by_role("tab", name="Code").click()
    page.get_by_label("Language").select_option(language)
    return page.locator("#code").inner_text()


def run(command: list[str], directory: Path) -> str:
    done = subprocess.run(
        command, cwd=directory, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def chat(page: Page, parrot: ParrotServer, tmp_path: Path) -> Page:
    """Two turns, the second with a picture, and the file beside the program."""
    picture = plain_png(20, 10)
    (tmp_path / "it's a picture.png").write_bytes(picture)
    visit(page, parrot.base_url)
    answer_to(page, TEXT)
    attach(page, "it's a picture.png", picture)
    expect(page.locator("#picture-facts")).to_contain_text("tokens")
    answer_to(page, TEXT)
    return page


def test_python(chat: Page, tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text(code_of(chat, "python"))
    assert run([sys.executable, "code.py"], tmp_path).endswith(f"{TEXT}\n")


def test_curl(chat: Page, tmp_path: Path) -> None:
    out = run(["bash", "-c", code_of(chat, "curl")], tmp_path)
    *events, done = [e.removeprefix("data: ") for e in out.strip().split("\n\n")]
    assert done == "[DONE]"
    chunks = [json.loads(event) for event in events]
    text = "".join(c["choices"][0]["delta"]["content"] for c in chunks if c["choices"])
    assert text.endswith(TEXT)
    assert chunks[-1]["usage"]["prompt_tokens_details"]["image_tokens"] > 0


def test_javascript(chat: Page, tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(SCRIPTS / "node_modules")
    (tmp_path / "code.mjs").write_text(code_of(chat, "javascript"))
    assert run([node(), "code.mjs"], tmp_path).endswith(f"{TEXT}\n")


def test_a_schema_and_a_key_are_in_the_program(page: Page, parrot: ParrotServer) -> None:
    visit(page, parrot.base_url)
    page.get_by_label("Key", exact=True).fill("a key of mine")
    page.get_by_role("tab", name="JSON schema").click()
    page.get_by_label("Answer in JSON by this schema").check()
    for language, read in (
        ("curl", "$KEY"),
        ("python", 'os.environ["KEY"]'),
        ("javascript", "process.env.KEY"),
    ):
        code = code_of(page, language)
        assert read in code
        assert "additionalProperties" in code
        assert "a key of mine" not in code
    compile(code_of(page, "python"), "code.py", "exec")


def test_it_follows_what_is_being_asked(page: Page, parrot: ParrotServer) -> None:
    visit(page, parrot.base_url)
    page.get_by_role("tab", name="Code").click()
    code = page.locator("#code")
    page.get_by_role("button", name="What number is this?").click()
    expect(code).to_contain_text("What number is this?")
    expect(code).to_contain_text("sample-number.png")
    page.get_by_role("button", name="Remove picture").click()
    expect(code).not_to_contain_text("sample-number.png")
    answer_to(page, "Well?")
    page.get_by_role("button", name="Edit").click()
    page.get_by_label("Question").fill("Better?")
    expect(code).to_contain_text("Better?")
    page.get_by_role("button", name="Cancel edit").click()
    expect(code).to_contain_text("Well?")
    page.get_by_role("button", name="New chat").click()
    expect(code).not_to_contain_text("Well?")


def test_it_can_be_copied(page: Page, parrot: ParrotServer) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visit(page, parrot.base_url)
    code = code_of(page, "curl")
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()").strip() == code.strip()
