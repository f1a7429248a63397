"""The one shape of every error, and what must never stand in it."""

import re
from typing import Any

import httpx

from .running_server import PROJECT

_LEAKS = re.compile(
    r"Traceback|\.py\b|site-packages|0x[0-9a-fA-F]{6,}|/tmp/|/home/|/root/|object at"
)


def assert_error(
    response: httpx.Response, status: int, code: str | None = None, loc: str | None = None
) -> dict[str, Any]:
    """The response is this error, readable for every client; returns its body.

    loc: the first place it names, parts joined by dots, without the leading `body`.
    """
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.content.isascii()
    body: dict[str, Any] = response.json()
    error = body["error"]
    assert body.keys() == {"error", "status", "code", "message", "detail"}
    assert error["message"] == body["message"] != ""
    assert error["code"] == body["code"] == response.headers["x-ms-error-code"]
    assert error["status"] == body["status"] == status
    assert isinstance(error["details"], list)
    for offending in body["detail"]:
        assert offending.keys() >= {"loc", "input", "msg", "type"}
        assert all(isinstance(part, str) for part in offending["loc"])
    assert ("retry-after" in response.headers) == (body["code"] in RETRIED)
    assert ("www-authenticate" in response.headers) == (status == 401)
    assert response.headers["x-request-id"]
    assert not _LEAKS.search(response.text), response.text
    assert str(PROJECT.parent) not in response.text
    assert len(response.content) < 4096
    if code is not None:
        assert body["code"] == code
    if loc is not None:
        assert ".".join(body["detail"][0]["loc"]) == (f"body.{loc}" if loc else "body")
    return body


# Only here does trying again help; with Retry-After Python's SDK tries again whatever the status.
RETRIED = {"too_many_requests", "not_ready"}
