"""One request of a batch to its answer, through whatever passes by."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from ..client.answers import retry_after_s, to_client_error, to_error
from ..client.errors import NoServerError, PictureFileError
from ..json_response import to_ascii_json
from .lines import BatchRequest
from .results import BatchResult, answer_of, error_of

_PROBE_S = 10.0
# Beside every other 5xx: the request is right, and the next try may be answered.
_REQUEST_TIMEOUT, _TOO_MANY, _UNAVAILABLE = 408, 429, 503


@dataclass(frozen=True)
class RetryPolicy:
    """num_tries: of a request that fails with 5xx or a broken connection, with pauses that double.
    max_wait_s: how long one is put off with 429 or 503 and Retry-After, all together."""

    num_tries: int = 5
    first_pause_s: float = 1.0
    max_wait_s: float = 3600.0


class Sender:
    """Sends what it is given. url: the server's, for messages; read_pictures: a request's body with
    the pictures that it names by path, called in a thread; raises PictureFileError."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        url: str,
        read_pictures: Callable[[BatchRequest], dict[str, Any]],
        policy: RetryPolicy,
        on_retry: Callable[[str], None],
    ) -> None:
        self._client = client
        self._url = url
        self._read_pictures = read_pictures
        self._policy = policy
        self._on_retry = on_retry

    async def send(self, request: BatchRequest) -> BatchResult:
        """What the line's place in the output gets.

        Raises RightsError and NoServerError where no other line would fare better.
        """
        try:
            body = await asyncio.to_thread(self._read_pictures, request)
        except PictureFileError as error:
            return error_of(request.custom_id, "unreadable_picture", str(error), request.place)
        content = to_ascii_json(body).encode("ascii")
        waited_s, num_failures = 0.0, 0
        while True:
            outcome = await self._try(request.url, content)
            if isinstance(outcome, httpx.Response):
                if outcome.status_code in (401, 403):
                    raise to_error(outcome)
                if not _may_pass(outcome.status_code):
                    break
                pause_s = _told_to_wait(outcome)
            else:
                pause_s = None
            if pause_s is not None and waited_s + pause_s <= self._policy.max_wait_s:
                waited_s += pause_s
            else:
                pause_s = self._policy.first_pause_s * 2**num_failures
                num_failures += 1
                if num_failures >= self._policy.num_tries:
                    await self._check_server()
                    break
            self._on_retry(f"{request.place}: {_told(outcome)}; again in {pause_s:g} s")
            await asyncio.sleep(pause_s)
        return _to_result(request, outcome)

    async def _try(self, url: str, content: bytes) -> httpx.Response | httpx.HTTPError:
        try:
            return await self._client.post(
                url, content=content, headers={"Content-Type": "application/json"}
            )
        except httpx.HTTPError as error:
            return error

    async def _check_server(self) -> None:
        """Raises NoServerError unless the server is there and, if it tells, alive."""
        try:
            probe = await self._client.get("/health/live", timeout=_PROBE_S)
        except httpx.HTTPError as error:
            raise NoServerError(str(to_client_error(error, self._url))) from error
        if probe.status_code >= 500:
            raise NoServerError(f"the server at {self._url} is not well: {to_error(probe)}")


def _may_pass(status: int) -> bool:
    return status >= 500 or status in (_TOO_MANY, _REQUEST_TIMEOUT)


def _told_to_wait(response: httpx.Response) -> float | None:
    """Seconds, at least some; None where the server does not say that waiting helps."""
    if response.status_code not in (_TOO_MANY, _UNAVAILABLE):
        return None
    told_s = retry_after_s(response)
    return None if told_s is None else max(told_s, 0.1)


def _told(outcome: httpx.Response | httpx.HTTPError) -> str:
    if isinstance(outcome, httpx.Response):
        return str(outcome.status_code)
    return type(outcome).__name__


def _to_result(request: BatchRequest, outcome: httpx.Response | httpx.HTTPError) -> BatchResult:
    if isinstance(outcome, httpx.HTTPError):
        message = f"the connection failed {type(outcome).__name__}"
        return error_of(request.custom_id, "connection_failed", message, request.place)
    try:
        body = outcome.json()
    except ValueError:
        message = f"the answer, of status {outcome.status_code}, is not JSON"
        return error_of(request.custom_id, "bad_answer", message, request.place)
    request_id = outcome.headers.get("x-request-id", "")
    return answer_of(request.custom_id, outcome.status_code, request_id, body)
