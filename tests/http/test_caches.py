"""What is kept for the next request, and for whom."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from scoring.async_engine import AsyncEngine
from scoring.engine_config import EngineConfig

from .parrot import threaded_server
from .pictures import encoded, image_part, noise
from .running_server import Endpoint, wait_until


class Callers:
    """A server with the demo model for callers "a" and "b"."""

    def __init__(self, base_url: str, engine: AsyncEngine) -> None:
        self._endpoints = {key: Endpoint(base_url, key) for key in "ab"}
        self._engine = engine

    def usage(self, key: str, content: Any) -> dict[str, Any]:
        response = self._endpoints[key].ask(content, max_tokens=1)
        assert response.status_code == 200, response.text
        return dict(response.json()["usage"])

    def num_cached(self, key: str, content: Any) -> int:
        return int(self.usage(key, content)["prompt_tokens_details"]["cached_tokens"])

    @property
    def num_encoded(self) -> int:
        """Pictures that went through the tower."""
        wait_until(lambda: self._engine.num_open == 0, 5, "idle")
        assert self._engine.stats is not None
        return self._engine.stats.num_pictures_encoded


@pytest.fixture(scope="module")
def callers(demo_checkpoint: Path) -> Iterator[Callers]:
    engines: list[AsyncEngine] = []

    def make_engine() -> AsyncEngine:
        config = EngineConfig(demo_checkpoint, device="cpu")
        engines.append(AsyncEngine(config, max_queued=128))
        return engines[0]

    with threaded_server(demo_checkpoint, make_engine, api_key="a,b") as (base_url, _):
        yield Callers(base_url, engines[0])


def about(question: str, picture: int) -> list[dict[str, Any]]:
    """The question comes first, so that no prefix spares the picture's features."""
    return [{"type": "text", "text": question}, image_part(encoded(noise(50, 40, picture), "PNG"))]


def test_a_picture_asked_about_often_is_encoded_once(callers: Callers) -> None:
    callers.usage("a", about("first", 1))
    before = callers.num_encoded
    with ThreadPoolExecutor(8) as threads:
        questions = [about(f"question {number}", 1) for number in range(64)]
        list(threads.map(lambda content: callers.usage("a", content), questions))
    assert callers.num_encoded == before


def test_a_picture_that_another_caller_sent_is_as_good_as_new(callers: Callers) -> None:
    """Else the time of a first token would tell that somebody has sent it before."""
    num_encoded = []
    for key in "abab":
        before = callers.num_encoded
        callers.usage(key, about(f"{key} asks for the time {len(num_encoded)}", 2))
        num_encoded.append(callers.num_encoded - before)
    assert num_encoded == [1, 1, 0, 0]


def test_a_beginning_that_another_caller_sent_is_as_good_as_new(callers: Callers) -> None:
    """What is cached is told in the usage: nothing for whoever did not send it."""
    prompt = "A long text that somebody else must not be able to guess, word for word. " * 8
    assert [callers.num_cached("a", prompt + end) > 100 for end in "123"] == [False, True, True]
    assert callers.num_cached("b", prompt + "4") == 0
    assert [callers.num_cached("b", prompt + end) > 100 for end in "56"] == [True, True]
    picture = about("", 3)[::-1]
    assert callers.num_cached("a", picture) == 0
    assert callers.num_cached("a", picture) > 100
    assert callers.num_cached("b", picture) == 0
