"""A server with a key, and the official client that holds it."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from azure.ai.inference import ChatCompletionsClient
from azure.core.credentials import AzureKeyCredential

from ..http.running_server import RunningServer, ready_server, wait_until
from ..http.session_checkpoints import demo_checkpoint

__all__ = ["demo_checkpoint"]

KEY = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="package")
def keyed(
    demo_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """The demo model, for those who have the key. The samples ask for 2048 tokens, which nobody
    waits for: a short context cuts them."""
    log = tmp_path_factory.mktemp("logs") / "keyed.log"
    with ready_server(log, demo_checkpoint, "--max-model-len", "600", api_key=KEY) as server:
        yield server


@pytest.fixture
def client(keyed: RunningServer) -> Iterator[ChatCompletionsClient]:
    """azure-ai-inference, as its user makes it."""
    with ChatCompletionsClient(
        endpoint=keyed.base_url, credential=AzureKeyCredential(KEY)
    ) as client:
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
