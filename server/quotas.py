"""Requests and tokens per minute, for each caller on its own.

A bucket holds a minute's worth and fills up again evenly: nobody waits for a minute to turn.
A request takes one from the first bucket before its body is read, and, once its prompt is counted,
all the tokens it could come to from the second; what it did not need goes back when it ends.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .auth import PUBLIC_PATHS
from .completion import Completion
from .errors import RateLimitError, error_answer, error_response

_MAX_CALLERS = 10_000


class Bucket:
    """So much per minute of one thing."""

    def __init__(self, name: str, per_minute: int, clock: Callable[[], float]) -> None:
        self.name = name
        self.per_minute = per_minute
        self._clock = clock
        self._level, self._filled = float(per_minute), clock()

    @property
    def remaining(self) -> int:
        self._fill()
        return max(0, int(self._level))

    def take(self, amount: int) -> None:
        """Raises RateLimitError when there is not enough. What is more than a minute's worth needs
        a full bucket, and the next ones wait until it is paid for."""
        self._fill()
        missing = min(amount, self.per_minute) - self._level
        # Filling up in many small parts leaves a rounding error, which must not cost a second.
        if missing > 1e-6:
            wait_s = math.ceil(missing * 60 / self.per_minute - 1e-6)
            raise RateLimitError(
                f"{self.per_minute} {self.name} per minute are allowed, {self.remaining} are left "
                f"and this needs {amount}; try again in {wait_s} s",
                wait_s,
            )
        self._level -= amount

    def give_back(self, amount: int) -> None:
        self._level = min(self.per_minute, self._level + amount)

    def _fill(self) -> None:
        now = self._clock()
        self._level += (now - self._filled) * self.per_minute / 60
        self._level, self._filled = min(self.per_minute, self._level), now


@dataclass(frozen=True)
class Allowance:
    """What one caller may do; None: as much as it likes."""

    requests: Bucket | None
    tokens: Bucket | None


class Quotas:
    """The callers' allowances. Of so many callers that they could fill the memory, those who have
    been away longest start afresh."""

    def __init__(
        self,
        requests_per_minute: int | None,
        tokens_per_minute: int | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = {"requests": requests_per_minute, "tokens": tokens_per_minute}
        self._clock = clock
        self._allowances: OrderedDict[bytes, Allowance] = OrderedDict()

    def of(self, caller: bytes) -> Allowance:
        """caller: the digest of its key; all who show none are one caller."""
        allowance = self._allowances.get(caller)
        if allowance is None:
            allowance = Allowance(
                **{
                    name: None if limit is None else Bucket(name, limit, self._clock)
                    for name, limit in self._limits.items()
                }
            )
            self._allowances[caller] = allowance
        self._allowances.move_to_end(caller)
        if len(self._allowances) > _MAX_CALLERS:
            self._allowances.popitem(last=False)
        return allowance


class TokenMeter:
    """One request's tokens, at request.state.tokens."""

    def __init__(self, bucket: Bucket | None) -> None:
        self._bucket = bucket
        self._reserved = 0
        self._completion: Completion | None = None

    def reserve(self, completion: Completion) -> None:
        """Take what the completion may come to, before it runs. Raises RateLimitError."""
        if self._bucket is not None:
            self._bucket.take(completion.max_total_tokens)
            self._reserved, self._completion = completion.max_total_tokens, completion

    def settle(self) -> None:
        """Give back what it did not come to, however it ended."""
        if self._bucket is not None and self._completion is not None:
            self._bucket.give_back(self._reserved - self._completion.num_total_tokens)


class QuotaGuard:
    """ASGI middleware: every POST counts, is refused with 429 where it is one too many, and is told
    what is left. It stands behind the one that knows the caller."""

    def __init__(self, app: ASGIApp, quotas: Quotas) -> None:
        self._app = app
        self._quotas = quotas

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PUBLIC_PATHS:
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        allowance = self._quotas.of(state.get("caller", b""))
        state["tokens"] = meter = TokenMeter(allowance.tokens)
        if scope["method"] != "POST":
            await self._app(scope, receive, send)
            return

        async def send_with_quota(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_headers(allowance))
            await send(message)

        try:
            if allowance.requests is not None:
                allowance.requests.take(1)
        except RateLimitError as error:
            await error_response(*error_answer(error))(scope, receive, send_with_quota)
            return
        try:
            await self._app(scope, receive, send_with_quota)
        finally:
            meter.settle()


def _headers(allowance: Allowance) -> dict[str, str]:
    headers = {}
    for bucket in filter(None, (allowance.requests, allowance.tokens)):
        headers[f"x-ratelimit-limit-{bucket.name}"] = str(bucket.per_minute)
        headers[f"x-ratelimit-remaining-{bucket.name}"] = str(bucket.remaining)
    return headers
