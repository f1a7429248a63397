"""Servers with a key, the ways to them, and the official client that holds the key."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from uuid import uuid4

import pytest
from azure.ai.inference import ChatCompletionsClient
from azure.core.credentials import AzureKeyCredential

from scoring.scheduler import ScheduledRow

from ..http.parrot import Parrot, ParrotServer, parrot_server
from ..http.running_server import Endpoint, Ready, RunningServer, wait_until
from ..http.session_checkpoints import demo_checkpoint
from .rechunking_proxy import rechunked

__all__ = ["demo_checkpoint"]

KEY = "0123456789abcdef0123456789abcdef"
# Seven characters of three bytes in a row, and seven of four: wherever events begin, a cut after
# every seventh byte goes through one of them.
POLYGLOT = "naïve да 日本語を話しますか 🌍🚀🌊🌋🌌🌈🌞 – done"
# From a server's address to one that leads there: its own, or that of a proxy that cuts answers.
WAYS: dict[str, Callable[[str], AbstractContextManager[str]]] = {
    "straight": nullcontext,
    "in sevens": rechunked,
}


@pytest.fixture(scope="package")
def keyed(
    demo_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory, ready: Ready
) -> Iterator[RunningServer]:
    """The demo model, for those who have the key. The samples ask for 2048 tokens, which nobody
    waits for: a short context cuts them."""
    log = tmp_path_factory.mktemp("logs") / "keyed.log"
    with ready(log, demo_checkpoint, "--max-model-len", "600", api_key=KEY) as server:
        yield server


@pytest.fixture(scope="package")
def parrot(demo_checkpoint: Path) -> Iterator[ParrotServer]:
    """A server that says what it is told, for those who have the key."""
    with parrot_server(demo_checkpoint, Parrot(demo_checkpoint), api_key=KEY) as server:
        yield server


@pytest.fixture
def failing(demo_checkpoint: Path) -> Iterator[Endpoint]:
    """A server on which every answer fails after six tokens, save the short golden ones."""

    def fault(row: ScheduledRow) -> None:
        if row.sequence.num_output_tokens == 6 and row.sequence.num_prompt_tokens > 40:
            raise RuntimeError("the device's secret")

    with parrot_server(demo_checkpoint, Parrot(demo_checkpoint, fault=fault)) as server:
        yield server


@pytest.fixture(params=WAYS)
def way_to(request: pytest.FixtureRequest) -> Iterator[Callable[[Endpoint], str]]:
    """The address under which a client finds a server. Tests that ask for it run by every way."""
    with ExitStack() as ways:
        yield lambda server: ways.enter_context(WAYS[request.param](server.base_url))


@pytest.fixture
def base_url(keyed: RunningServer, way_to: Callable[[Endpoint], str]) -> str:
    return way_to(keyed)


@pytest.fixture
def client(base_url: str) -> Iterator[ChatCompletionsClient]:
    """azure-ai-inference, as its user makes it."""
    with ChatCompletionsClient(endpoint=base_url, credential=AzureKeyCredential(KEY)) as client:
        yield client


class RequestCount:
    """The chat and info requests that the server has answered since the test began, by the lines
    of its log: each is written when the answer is out."""

    def __init__(self, server: RunningServer) -> None:
        self._server = server
        # The line of the test before may still be on its way: one after it is waited for.
        marker = uuid4().hex
        server.request("GET", "/info", headers={"x-request-id": marker})
        wait_until(lambda: marker in server.log, 5, "the marker's line")
        self._start = self._lines()

    def _lines(self) -> int:
        return self._server.log.count('"logger": "server.observer"')

    def is_exactly(self, number: int) -> bool:
        """An SDK that asks again does so before it raises, so nothing more is to come."""
        wait_until(lambda: self._lines() - self._start >= number, 5, f"{number} requests")
        return self._lines() - self._start == number


@pytest.fixture
def requests(keyed: RunningServer) -> RequestCount:
    return RequestCount(keyed)
