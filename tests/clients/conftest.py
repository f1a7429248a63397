"""A server with a key, and the official client that holds it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from azure.ai.inference import ChatCompletionsClient
from azure.core.credentials import AzureKeyCredential

from ..http.running_server import RunningServer, ready_server
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
