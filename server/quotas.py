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
from typing import Protocol

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


Left = dict[str, tuple[int, int]]
"""Of each quota that there is, by its name: what a minute allows, and what is left."""


class Allowance(Protocol):
    """What one caller may do, wherever that is kept."""

    @property
    def left(self) -> Left: ...

    async def take(self, name: str, amount: int) -> None:
        """Take an amount of "requests" or "tokens". Raises RateLimitError where it is too much."""

    def give_back(self, name: str, amount: int) -> None: ...


@dataclass(frozen=True)
class OwnAllowance:
    """An Allowance kept in this process. None: as much as the caller likes."""

    requests: Bucket | None
    tokens: Bucket | None

    @property
    def left(self) -> Left:
        return {bucket.name: (bucket.per_minute, bucket.remaining) for bucket in self._buckets}

    async def take(self, name: str, amount: int) -> None:
        for bucket in self._buckets:
            if bucket.name == name:
                bucket.take(amount)

    def give_back(self, name: str, amount: int) -> None:
        for bucket in self._buckets:
            if bucket.name == name:
                bucket.give_back(amount)

    @property
    def _buckets(self) -> list[Bucket]:
        return [bucket for bucket in (self.requests, self.tokens) if bucket is not None]


class AllowanceKeeper(Protocol):
    """Knows every caller's."""

    def of(self, caller: bytes) -> Allowance:
        """caller: the digest of its key; all who show none are one caller."""


class Quotas:
    """An AllowanceKeeper in this process. Of so many callers that they could fill the memory,
    those who have been away longest start afresh."""

    def __init__(
        self,
        requests_per_minute: int | None,
        tokens_per_minute: int | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = {"requests": requests_per_minute, "tokens": tokens_per_minute}
        self._clock = clock
        self._allowances: OrderedDict[bytes, OwnAllowance] = OrderedDict()

    def of(self, caller: bytes) -> OwnAllowance:
        """caller: the digest of its key; all who show none are one caller."""
        allowance = self._allowances.get(caller)
        if allowance is None:
            allowance = OwnAllowance(
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

    def __init__(self, allowance: Allowance) -> None:
        self._allowance = allowance
        self._completion: Completion | None = None

    async def reserve(self, completion: Completion) -> None:
        """Take what the completion may come to, before it runs. Raises RateLimitError."""
        await self._allowance.take("tokens", completion.max_total_tokens)
        self._completion = completion

    def settle(self) -> None:
        """Give back what it did not come to, however it ended."""
        if (done := self._completion) is not None:
            self._allowance.give_back("tokens", done.max_total_tokens - done.num_total_tokens)


class QuotaGuard:
    """ASGI middleware: every POST counts, is refused with 429 where it is one too many, and is told
    what is left. It stands behind the one that knows the caller."""

    def __init__(self, app: ASGIApp, quotas: AllowanceKeeper) -> None:
        self._app = app
        self._quotas = quotas

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PUBLIC_PATHS:
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        allowance = self._quotas.of(state.get("caller", b""))
        state["tokens"] = meter = TokenMeter(allowance)
        if scope["method"] != "POST":
            await self._app(scope, receive, send)
            return

        async def send_with_quota(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_headers(allowance))
            await send(message)

        try:
            await allowance.take("requests", 1)
        except RateLimitError as error:
            await error_response(*error_answer(error))(scope, receive, send_with_quota)
            return
        try:
            await self._app(scope, receive, send_with_quota)
        finally:
            meter.settle()


def _headers(allowance: Allowance) -> dict[str, str]:
    headers = {}
    for name, (per_minute, remaining) in allowance.left.items():
        headers[f"x-ratelimit-limit-{name}"] = str(per_minute)
        headers[f"x-ratelimit-remaining-{name}"] = str(remaining)
    return headers
