"""Requests and tokens per minute: what a caller is told, and what it cannot take from others."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from azure.ai.inference import ChatCompletionsClient
from azure.core.credentials import AzureKeyCredential
from azure.core.exceptions import HttpResponseError
from fastapi.routing import iter_route_contexts

from server.app import create_app
from server.errors import RateLimitError
from server.quotas import Bucket, Quotas
from server.settings import Settings

from .error_bodies import assert_error
from .event_streams import opened
from .parrot import Parrot, ParrotServer, parrot_server
from .running_server import Endpoint, assert_well, is_idle, user, wait_until


class Clock:
    """Stands still until it is turned."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def refused(take: Callable[[], Any]) -> int:
    """The seconds until trying again will help."""
    with pytest.raises(RateLimitError) as error:
        take()
    return int(error.value.headers["Retry-After"])


# Buckets


def test_a_minutes_worth_may_come_at_once_and_no_more() -> None:
    bucket = Bucket("requests", 60, Clock())
    for left in reversed(range(60)):
        bucket.take(1)
        assert bucket.remaining == left
    assert refused(lambda: bucket.take(1)) == 1


def test_the_bucket_fills_up_evenly() -> None:
    clock = Clock()
    bucket = Bucket("tokens", 600, clock)
    bucket.take(600)
    clock.now += 7
    assert bucket.remaining == 70
    clock.now += 10_000
    assert bucket.remaining == 600


@pytest.mark.parametrize("per_minute", [1, 7, 60, 1000, 200_000])
@pytest.mark.parametrize("amount", [1, 13, 10**6])
def test_coming_back_after_retry_after_helps_and_sooner_does_not(
    per_minute: int, amount: int
) -> None:
    clock = Clock()
    bucket = Bucket("tokens", per_minute, clock)
    bucket.take(per_minute)
    wait_s = refused(lambda: bucket.take(amount))
    clock.now += wait_s - 1.01
    assert refused(lambda: bucket.take(amount)) >= 1
    clock.now += 1.01
    bucket.take(amount)


def test_what_is_more_than_a_minutes_worth_is_paid_for_afterwards() -> None:
    clock = Clock()
    bucket = Bucket("tokens", 60, clock)
    bucket.take(180)
    assert bucket.remaining == 0
    assert refused(lambda: bucket.take(1)) == 121
    clock.now += 121
    bucket.take(1)


def test_what_is_given_back_fills_no_bucket_over_its_brim() -> None:
    bucket = Bucket("tokens", 60, Clock())
    bucket.take(10)
    bucket.give_back(50)
    assert bucket.remaining == 60


def test_allowances_of_many_callers_stay_bounded() -> None:
    quotas = Quotas(2, None)
    requests = quotas.of(b"one").requests
    assert requests is not None
    requests.take(2)
    for number in range(9_999):
        quotas.of(number.to_bytes(8))
        quotas.of(b"one")
    assert quotas.of(b"one").requests is requests
    for number in range(10_000):
        quotas.of(number.to_bytes(4))
    assert quotas.of(b"one").requests is not requests


# Over HTTP


@contextmanager
def metered(checkpoint: Path, **settings: Any) -> Iterator[ParrotServer]:
    """A server whose first key has paid for finding out what is golden."""
    parrot = Parrot(checkpoint)
    with parrot_server(checkpoint, parrot, api_key="golden,first,second", **settings) as server:
        yield server


def caller(server: Endpoint, key: str) -> Endpoint:
    return Endpoint(server.base_url, key)


def remaining(response: httpx.Response, what: str) -> int:
    return int(response.headers[f"x-ratelimit-remaining-{what}"])


@pytest.fixture
def two_a_minute(demo_checkpoint: Path) -> Iterator[Endpoint]:
    parrot = Parrot(demo_checkpoint)
    with parrot_server(
        demo_checkpoint, parrot, api_key="golden,first,second", requests_per_minute=2
    ) as server:
        yield server


def test_a_request_too_many_is_a_429_that_says_when_to_come_back(two_a_minute: Endpoint) -> None:
    first = caller(two_a_minute, "first")
    for left in (1, 0):
        answer = first.ask("hi")
        assert answer.status_code == 200
        assert answer.headers["x-ratelimit-limit-requests"] == "2"
        assert remaining(answer, "requests") == left
        assert "x-ratelimit-limit-tokens" not in answer.headers
    answer = first.ask("hi")
    message = assert_error(answer, 429, "too_many_requests")["message"]
    assert "2 requests per minute" in message
    assert 1 <= int(answer.headers["retry-after"]) <= 30
    assert remaining(answer, "requests") == 0


def test_each_key_has_its_own_share(two_a_minute: Endpoint) -> None:
    first, second = caller(two_a_minute, "first"), caller(two_a_minute, "second")
    assert [first.ask("hi").status_code for _ in range(3)] == [200, 200, 429]
    assert [second.ask("hi").status_code for _ in range(3)] == [200, 200, 429]


def test_only_posts_count_and_they_count_whatever_they_hold(two_a_minute: Endpoint) -> None:
    first = caller(two_a_minute, "first")
    for _ in range(5):
        assert first.get("/info").status_code == 200
        assert first.get("/health/ready").status_code == 200
    assert_error(first.post_bytes(b"{"), 422)
    assert first.request("POST", "/embeddings").status_code == 404
    assert_error(first.ask("hi"), 429)


def test_the_wrong_key_uses_up_nobodys_share(two_a_minute: Endpoint) -> None:
    for _ in range(5):
        assert_error(caller(two_a_minute, "wrong").ask("hi"), 401)
    assert caller(two_a_minute, "first").ask("hi").status_code == 200


def test_a_request_too_many_is_refused_before_its_body_is_read(two_a_minute: Endpoint) -> None:
    first = caller(two_a_minute, "first")
    for _ in range(2):
        first.ask("hi")

    def body() -> Iterator[bytes]:
        yield b"{"
        raise AssertionError("the server asked for more")

    request = {"content": body(), "headers": {"Content-Type": "application/json"}}
    with pytest.raises((AssertionError, httpx.WriteError)):
        first.request("POST", "/chat/completions", **request)
    assert_error(first.post_bytes(b"[" * (1 << 20)), 429)


def test_azures_client_waits_and_tries_again(demo_checkpoint: Path) -> None:
    with metered(demo_checkpoint, requests_per_minute=60) as server:
        first = caller(server, "first")
        assert any(first.ask("hi").status_code == 429 for _ in range(1000))
        with ChatCompletionsClient(server.base_url, AzureKeyCredential("first")) as client:
            assert client.complete(messages=[user("hi")]).choices[0].message.content == "hi"


def test_tokens_are_counted_as_usage_counts_them(demo_checkpoint: Path) -> None:
    start = time.monotonic()
    with metered(demo_checkpoint, tokens_per_minute=2000) as server:
        first = caller(server, "first")
        before = remaining(first.ask("hi", max_tokens=1), "tokens")
        for text, parameters in [
            ("hello", {}),
            ("x" * 300, {"max_tokens": 7}),
            ("a", {"stop": "a"}),
        ]:
            usage = first.ask(text, **parameters).json()["usage"]["total_tokens"]
            answer = first.ask("hi", max_tokens=1)
            spent = before - remaining(answer, "tokens")
            probe = answer.json()["usage"]["total_tokens"]
            filled = (time.monotonic() - start) * 2000 / 60 + 1
            assert usage + probe - filled <= spent <= usage + probe
            before = remaining(answer, "tokens")


def test_a_prompt_too_many_is_refused_before_it_runs(demo_checkpoint: Path) -> None:
    with metered(demo_checkpoint, tokens_per_minute=300) as server:
        first = caller(server, "first")
        assert first.ask("x" * 200, max_tokens=2).status_code == 200
        steps = server.parrot.num_steps
        for streamed in (False, True):
            answer = first.ask("x" * 200, max_tokens=2, stream=streamed)
            message = assert_error(answer, 429, "too_many_requests")["message"]
            assert "300 tokens per minute" in message
            assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert server.parrot.num_steps == steps
        assert caller(server, "second").ask("x" * 200, max_tokens=2).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_what_was_not_generated_is_given_back(demo_checkpoint: Path, stream: bool) -> None:
    """Each asks for 500 tokens and ends after three: 20 fit a minute that has room for two."""
    with metered(demo_checkpoint, tokens_per_minute=1100) as server:
        first = caller(server, "first")
        for _ in range(20):
            assert first.ask("hi", max_tokens=500, stream=stream).status_code == 200


def test_leaving_gives_back_what_did_not_come(demo_checkpoint: Path) -> None:
    with metered(demo_checkpoint, tokens_per_minute=1500) as server:
        first = caller(server, "first")
        server.parrot.step_s = 0.02
        for _ in range(4):
            with opened(first, "A long answer. " * 10, max_tokens=800) as stream:
                stream.take(1)
            wait_until(lambda: is_idle(server.state()), 5, "the server noticed")
        server.parrot.step_s = 0.0


def test_a_request_in_flight_holds_what_it_may_come_to(demo_checkpoint: Path) -> None:
    with metered(demo_checkpoint, tokens_per_minute=1100) as server:
        first = caller(server, "first")
        server.parrot.step_s = 0.02
        with opened(first, "A long answer. " * 10, max_tokens=800) as stream:
            stream.take(1)
            assert_error(first.ask("hi", max_tokens=500), 429)
            server.parrot.step_s = 0.0
            stream.take_rest()
        wait_until(lambda: is_idle(server.state()), 5, "it is over")
        assert first.ask("hi", max_tokens=500).status_code == 200


def test_asking_for_more_than_the_context_holds_reserves_the_context(demo_checkpoint: Path) -> None:
    with metered(demo_checkpoint, tokens_per_minute=2000) as server:
        answer = caller(server, "first").ask("hi", max_tokens=10**6)
        assert remaining(answer, "tokens") >= 2000 - 1024


def test_without_quotas_nothing_is_said_of_them(parrot: ParrotServer) -> None:
    assert not [name for name in parrot.ask("hi").headers if name.startswith("x-ratelimit")]


def test_without_keys_all_callers_share(demo_checkpoint: Path) -> None:
    parrot = Parrot(demo_checkpoint)
    with parrot_server(demo_checkpoint, parrot, requests_per_minute=3) as server:
        statuses = [server.ask("hi").status_code for _ in range(3)]  # golden was the first
        assert statuses == [200, 200, 429]


def test_every_way_to_the_model_is_metered(demo_checkpoint: Path) -> None:
    """A route that forgets its tokens would be free."""
    with metered(demo_checkpoint, tokens_per_minute=1000) as server:
        app = create_app(Settings(), None, None, None)  # type: ignore[arg-type]
        for context in iter_route_contexts(app.routes):
            route: Any = context.route
            if "POST" not in (getattr(route, "methods", None) or ()):
                continue
            path = context.path.format(deployment="phi", name="phi")
            key = caller(server, "first")
            server.parrot.step_s = 0.0
            body = json.dumps({"messages": [user("hi")], "max_tokens": 10**6})
            headers = {"Content-Type": "application/json"}
            answer = key.request("POST", path, content=body, headers=headers)
            if answer.status_code == 200:
                assert remaining(answer, "tokens") < 900, path


def test_azures_client_reads_the_429(demo_checkpoint: Path) -> None:
    with (
        metered(demo_checkpoint, requests_per_minute=1) as server,
        ChatCompletionsClient(
            server.base_url, AzureKeyCredential("first"), retry_total=0
        ) as client,
    ):
        client.complete(messages=[user("hi")])
        with pytest.raises(HttpResponseError) as error:
            client.complete(messages=[user("hi")])
        assert error.value.status_code == 429
        assert error.value.error is not None
        assert error.value.error.code == "too_many_requests"


def test_afterwards_the_server_is_well(demo_checkpoint: Path) -> None:
    with metered(demo_checkpoint, requests_per_minute=60, tokens_per_minute=10_000) as server:
        with ThreadPoolExecutor(8) as threads:
            first = caller(server, "first")
            list(threads.map(lambda _: first.ask("hi", max_tokens=900), range(40)))
        server.api_key = "second"
        assert_well(server)
