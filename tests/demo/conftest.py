"""The server as `make serve` starts it where no weights are found, and the official client."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from azure.ai.inference import ChatCompletionsClient
from azure.core.credentials import AzureKeyCredential

from tools.train_demo import fonts
from tools.train_demo.canvas import Style

from ..http.running_server import RunningServer, ready_server


def in_matplotlibs_faces(style: Style) -> Style:
    """Without those of the extra `demo`."""
    faces = tuple(face for face in fonts.TRAINING if face.startswith("matplotlib:"))
    return replace(style, faces=faces)


@pytest.fixture(scope="package")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    directory = tmp_path_factory.mktemp("demo")
    variables = {"HF_HOME": str(directory / "hub")}
    with ready_server(directory / "log", None, variables=variables) as server:
        yield server


@pytest.fixture(scope="package")
def client(demo: RunningServer) -> Iterator[ChatCompletionsClient]:
    with ChatCompletionsClient(demo.base_url, AzureKeyCredential("unused")) as client:
        yield client
