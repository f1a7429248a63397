"""The REST part of the published how-to: every body, changed only as docs/seed-samples.md says."""

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from ..http.error_bodies import assert_error
from ..http.event_streams import EventStream
from ..http.pictures import plain_png
from ..http.running_server import RunningServer, assert_well
from .seed import blocks, corrected, corrections


@pytest.fixture(scope="module")
def bodies(shared: Path) -> list[str]:
    """The five requests: plain, streamed, with more parameters, with logprobs, with an image."""
    found = [b for b in blocks(shared / "seed.md", "rest", "json") if '"messages"' in b]
    assert len(found) == 5
    return found


@pytest.fixture(scope="module")
def answers(shared: Path) -> list[dict[str, Any]]:
    """The answers that it shows."""
    found = [json.loads(b) for b in blocks(shared / "seed.md", "rest", "json") if '"choices"' in b]
    assert len(found) == 5
    return found


def send(server: RunningServer, body: str, **headers: str) -> httpx.Response:
    with httpx.Client(base_url=server.base_url, verify=False, timeout=120) as client:
        return client.post(
            "/chat/completions",
            content=body.encode(),
            headers={
                "Authorization": f"Bearer {server.api_key}",
                "Content-Type": "application/json",
                **{name.replace("_", "-"): value for name, value in headers.items()},
            },
        )


def shape(value: Any) -> Any:
    """The keys of an answer, all the way down, without the values and without the details of its
    usage, which the how-to does not show."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items() if key[-8:] != "_details"}
    return [shape(inner) for inner in value] if isinstance(value, list) else None


def test_the_plain_request(
    keyed: RunningServer, bodies: list[str], answers: list[dict[str, Any]]
) -> None:
    response = send(keyed, bodies[0])
    assert response.status_code == 200
    assert shape(response.json()) == shape(answers[0])
    assert response.json()["object"] == answers[0]["object"]
    assert_well(keyed)


def test_the_streamed_request(
    keyed: RunningServer, bodies: list[str], answers: list[dict[str, Any]]
) -> None:
    response = send(keyed, bodies[1])
    assert response.status_code == 200
    chunks = EventStream(response.content).chunks
    first, last = answers[1], answers[2]
    assert shape(chunks[0]) == shape(first)
    assert chunks[0]["choices"] == first["choices"]
    assert shape(chunks[-1]) == shape(last)
    assert chunks[-1]["choices"][0]["delta"] == last["choices"][0]["delta"]
    assert response.content.endswith(b"data: [DONE]\n\n")
    assert_well(keyed)


def test_the_request_with_more_parameters(
    keyed: RunningServer, bodies: list[str], answers: list[dict[str, Any]]
) -> None:
    response = send(keyed, bodies[2])
    assert response.status_code == 200
    assert shape(response.json()) == shape(answers[3])
    assert_well(keyed)


def test_the_request_with_logprobs_and_its_header(
    keyed: RunningServer, bodies: list[str], shared: Path
) -> None:
    (head,) = blocks(shared / "seed.md", "rest", "http")
    assert "extra-parameters: pass-through" in head
    response = send(keyed, bodies[3], extra_parameters="pass-through")
    assert response.status_code == 200
    assert response.json()["choices"][0]["logprobs"]["content"]
    assert_error(send(keyed, bodies[3]), 400, "unknown_parameter")
    assert_well(keyed)


def test_the_request_with_an_image(
    keyed: RunningServer, bodies: list[str], answers: list[dict[str, Any]]
) -> None:
    """Its base64 is a placeholder: as it stands it can only be refused as no picture."""
    place = "messages.0.content.1.image_url.url"
    assert_error(send(keyed, bodies[4]), 422, "invalid_parameter", place)

    (body,) = corrected([bodies[4]], corrections("REST"))
    picture = base64.b64encode(plain_png(60, 40)).decode()
    response = send(keyed, body.replace("<PICTURE>", picture))
    assert response.status_code == 200
    assert shape(response.json()) == shape(answers[4])
    assert_well(keyed)
