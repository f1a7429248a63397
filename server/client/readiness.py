"""Is anybody there, which model is it, and is it ready?"""

import time
from collections.abc import Callable
from typing import Any

import httpx

from .answers import to_client_error, to_error
from .endpoint import Endpoint
from .errors import AnswerError

_POLL_S = 0.5
_PROBE_S = 10.0
# What becomes ready by waiting.
_COMING = ("starting", "loading", "warming")


def served_model(endpoint: Endpoint) -> str:
    """The name of the model that is served. Raises NoServerError, RightsError and AnswerError."""
    with endpoint.client(_PROBE_S) as client:
        response = _get(client, endpoint, "/v1/models")
    if response.status_code != 200:
        raise to_error(response)
    try:
        return str(response.json()["data"][0]["id"])
    except (ValueError, LookupError, TypeError):
        raise AnswerError(f"{endpoint.url} does not answer as an OpenAI or Azure model") from None


def notice_of(endpoint: Endpoint) -> str | None:
    """What /info says beside the model's name, as of a demo. Raises NoServerError."""
    with endpoint.client(_PROBE_S) as client:
        notice = _state(_get(client, endpoint, "/info")).get("notice")
    return notice if isinstance(notice, str) else None


def wait_until_ready(
    endpoint: Endpoint,
    say: Callable[[str], None],
    check_alive: Callable[[], None] = lambda: None,
) -> None:
    """Return when the server takes requests, or is of a kind that does not tell. say: gets what it
    is doing meanwhile; check_alive: raises where waiting is of no use any more."""
    with endpoint.client(_PROBE_S) as client:
        while True:
            check_alive()
            state = _state(_get(client, endpoint, "/health/ready"))
            if state.get("status") not in _COMING:
                return
            say(f"{state['status']} {state.get('percent', 0):.0f} %")
            time.sleep(_POLL_S)


def _state(response: httpx.Response) -> dict[str, Any]:
    try:
        state = response.json()
    except ValueError:
        state = None
    return state if isinstance(state, dict) else {}


def _get(client: httpx.Client, endpoint: Endpoint, path: str) -> httpx.Response:
    try:
        return client.get(path)
    except httpx.HTTPError as error:
        raise to_client_error(error, endpoint.url) from error
