"""Who may call: every path asks for a key or a token, save those that probes ask."""

import logging
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from . import playground_files
from .entra import EntraTokens, KeysUnavailableError, RightsError, TokenError
from .errors import (
    ForbiddenError,
    UnauthorizedError,
    UnavailableError,
    error_answer,
    error_response,
)
from .keys import KeyRing

logger = logging.getLogger(__name__)

PROBE_PATHS = frozenset({"/", "/health/live", "/health/ready"})
PUBLIC_PATHS = PROBE_PATHS | playground_files.PATHS
_LOG_EVERY_S = 1.0


class CallerAuth:
    """ASGI middleware: `Authorization: Bearer KEY`, `Authorization: KEY` or `api-key: KEY`, or
    `Authorization: Bearer TOKEN`.

    It stands before the routes and denies what it does not know, so that a new route is private
    until its path is written down above. request.state.caller is then a digest of who calls.
    """

    def __init__(self, app: ASGIApp, keys: KeyRing | None, tokens: EntraTokens | None) -> None:
        self._app = app
        self._keys = keys
        self._tokens = tokens
        self._logged = float("-inf")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in PUBLIC_PATHS:
            try:
                caller = await self._caller(Headers(scope=scope))
            except (UnauthorizedError, ForbiddenError, UnavailableError) as error:
                await error_response(*error_answer(error))(scope, receive, send)
                return
            scope.setdefault("state", {})["caller"] = caller
        await self._app(scope, receive, send)

    async def _caller(self, headers: Headers) -> bytes:
        bearer, api_key = _carried(headers)
        if self._keys is not None:
            # Both are looked at, whatever the first one gave.
            found = [self._keys.find(bearer), self._keys.find(api_key)]
            if caller := next(filter(None, found), None):
                return caller
        if self._tokens is not None and bearer.count(".") == 2:
            return await self._tokens_caller(self._tokens, bearer)
        raise UnauthorizedError(_missing(self._keys, self._tokens), self._challenge())

    async def _tokens_caller(self, tokens: EntraTokens, token: str) -> bytes:
        try:
            return await tokens.verify(token)
        except KeysUnavailableError:
            raise UnavailableError(
                "the keys that tokens are signed with cannot be had; try again later"
            ) from None
        except TokenError as error:
            self._log(error)
            if isinstance(error, RightsError):
                raise ForbiddenError("the token does not allow calling this server") from error
            raise UnauthorizedError(
                "the token is not valid here", self._challenge(', error="invalid_token"')
            ) from error

    def _challenge(self, error: str = "") -> str:
        """What WWW-Authenticate says; Azure's clients find there whom to ask for a token."""
        if self._tokens is None:
            return "Bearer"
        authority = f"https://login.microsoftonline.com/{self._tokens.tenant}"
        return f'Bearer authorization_uri="{authority}"{error}'

    def _log(self, error: TokenError) -> None:
        """Now and then: whoever sends nonsense must not fill the disk with it."""
        now = time.monotonic()
        if now - self._logged >= _LOG_EVERY_S:
            self._logged = now
            logger.warning("a token was refused: %s", error)


def _missing(keys: KeyRing | None, tokens: EntraTokens | None) -> str:
    key = "the key is missing or wrong; send it as 'Authorization: Bearer KEY' or 'api-key: KEY'"
    token = "send a token of Microsoft Entra ID as 'Authorization: Bearer TOKEN'"
    if tokens is None:
        return key
    return token if keys is None else f"{key}, or {token}"


def _carried(headers: Headers) -> tuple[str, str]:
    """What a request carries in Authorization and in api-key."""
    authorization = headers.get("authorization", "")
    scheme, _, token = authorization.partition(" ")
    bearer = token.strip() if scheme.lower() == "bearer" else authorization.strip()
    return bearer, headers.get("api-key", "")
