"""A real browser, which must find nothing to complain of, and servers for it to talk to."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

from ..http.conftest import demo, demo_checkpoint, logs
from ..http.parrot import Parrot, ParrotServer, parrot_server

__all__ = ["demo", "demo_checkpoint", "logs"]

_NAMES = ("chromium", "chromium-browser", "google-chrome")
ELSEWHERE = "playground.test"
"""A name of this machine that does not say so."""
WAIT_MS = 15_000
_ARGS = [
    # Its own sandbox needs rights that containers do not give; all it sees is our own page.
    "--no-sandbox",
    f"--host-resolver-rules=MAP {ELSEWHERE} 127.0.0.1",
]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium, without a window."""
    path = next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        pytest.skip(f"none of {', '.join(_NAMES)} is installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_ARGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A fresh page. At the end of a test its console is empty, but for refusals that the page
    shows, and it has asked nobody but the one server."""
    with browser.new_context() as context:
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        complaints: list[str] = []
        asked: set[str] = set()

        def on_request(request: Request) -> None:
            if urlsplit(request.url).scheme not in ("data", "blob"):
                asked.add(urlsplit(request.url).netloc)

        def on_console(message: ConsoleMessage) -> None:
            is_refusal = (
                message.text.startswith("Failed to load resource")
                and Path(urlsplit(message.location["url"]).path).suffix == ""  # none of its files
            )
            if message.type in ("error", "warning") and not is_refusal:
                complaints.append(message.text)

        page.on("request", on_request)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", on_console)
        yield page
        assert complaints == []
        assert len(asked) == 1


@pytest.fixture(scope="session")
def parrot(demo_checkpoint: Path) -> Iterator[ParrotServer]:
    """Its answer is what it was asked."""
    with parrot_server(demo_checkpoint, Parrot(demo_checkpoint)) as server:
        yield server
