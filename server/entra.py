"""Tokens of Microsoft Entra ID: whose they are, and whether they are for this server.

Who may sign, for whom and until when comes from the settings alone: nothing that a token says of
itself (its issuer, its algorithm, where its keys are) is followed. A verdict is never kept, so a
token is refused from the second on in which it expires.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

import httpx
import jwt

from .access_settings import AccessSettings

logger = logging.getLogger(__name__)

_AUTHORITY = "https://login.microsoftonline.com"
_REQUIRED = ["exp", "nbf", "iat", "iss", "aud", "tid"]
_LEEWAY_S = 60
# A key that is not there may be new; a caller who makes up key ids must not make us ask for each.
_REFRESH_EVERY_S, _RETRY_EVERY_S, _MAX_AGE_S = 60.0, 5.0, 24 * 3600.0
_TIMEOUT_S = 5.0
_MAX_KEYS_BYTES = 1 << 20
_NO_KEYS = (httpx.HTTPError, TimeoutError, ValueError, TypeError, KeyError, jwt.PyJWTError)


class TokenError(Exception):
    """Why a token is refused, for the log; the caller is not told."""


class RightsError(TokenError):
    """The token is genuine, and does not hold what this server asks for."""


class KeysUnavailableError(Exception):
    """No token can be judged: the tenant's keys could not be fetched yet."""


class SigningKeys:
    """The tenant's public keys by id, fetched when they are needed. The last good set stays."""

    def __init__(
        self,
        url: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._clock = clock
        self._keys: dict[str, jwt.PyJWK] = {}
        self._tried = self._fetched = float("-inf")
        self._refreshing = asyncio.Lock()

    async def find(self, key_id: str) -> jwt.PyJWK | None:
        """Raises KeysUnavailableError when there are none at all."""
        if key_id not in self._keys or self._age > _MAX_AGE_S:
            async with self._refreshing:
                if (key_id not in self._keys or self._age > _MAX_AGE_S) and self._may_try:
                    await self._refresh()
        if not self._keys:
            raise KeysUnavailableError
        return self._keys.get(key_id)

    @property
    def _age(self) -> float:
        return self._clock() - self._fetched

    @property
    def _may_try(self) -> bool:
        every_s = _REFRESH_EVERY_S if self._keys else _RETRY_EVERY_S
        return self._clock() - self._tried >= every_s

    async def _refresh(self) -> None:
        self._tried = self._clock()
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                self._keys = await self._fetch()
        except _NO_KEYS as error:
            logger.error(
                "the signing keys of Entra ID could not be fetched: %s", type(error).__name__
            )
        else:
            self._fetched = self._tried

    async def _fetch(self) -> dict[str, jwt.PyJWK]:
        async with (
            httpx.AsyncClient(trust_env=False, follow_redirects=False) as client,
            client.stream("GET", self._url) as response,
        ):
            response.raise_for_status()
            body = b""
            async for piece in response.aiter_bytes():
                body += piece
                if len(body) > _MAX_KEYS_BYTES:
                    raise ValueError("the keys are too large")
        keys = {
            key["kid"]: jwt.PyJWK(key, algorithm="RS256")
            for key in json.loads(body)["keys"]
            if key.get("kty") == "RSA" and key.get("use", "sig") == "sig"
        }
        if not keys:
            raise ValueError("there are no keys")
        return keys


class EntraTokens:
    """Judges access tokens by one tenant."""

    def __init__(
        self,
        tenant: str,
        audiences: tuple[str, ...],
        roles: tuple[str, ...],
        clients: tuple[str, ...],
        keys: SigningKeys | None = None,
    ) -> None:
        """As in AccessSettings.entra_…; of roles and clients, those that are given are asked for.
        keys: the tenant's own, unless a test gives others."""
        self.tenant = tenant
        self._audiences = audiences
        self._roles = frozenset(roles)
        self._clients = frozenset(clients)
        # Of tokens in version 2 and in version 1; an application chooses which it gets.
        self._issuers = [f"{_AUTHORITY}/{tenant}/v2.0", f"https://sts.windows.net/{tenant}/"]
        self._keys = keys or SigningKeys(f"{_AUTHORITY}/{tenant}/discovery/v2.0/keys")

    async def verify(self, token: str) -> bytes:
        """The digest of whose token it is. Raises TokenError, RightsError, KeysUnavailableError."""
        try:
            claims = await self._claims(token)
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            # The kind says enough; the text might repeat what was sent.
            raise TokenError(type(error).__name__) from error
        client = claims.get("azp", claims.get("appid"))
        if claims["tid"] != self.tenant:
            raise TokenError("it is another tenant's")
        if not isinstance(client, str):
            raise TokenError("it names no client, as an ID token does not")
        if self._clients and client not in self._clients:
            raise RightsError("its client is not on the list")
        if self._roles and not self._roles & _rights(claims):
            raise RightsError("it holds none of the roles and scopes that are asked for")
        subject = claims.get("oid", claims.get("sub", ""))
        return sha256(f"{self.tenant} {client} {subject}".encode()).digest()

    async def _claims(self, token: str) -> dict[str, Any]:
        header = jwt.get_unverified_header(token)
        if "nonce" in header:
            raise TokenError("it is for Microsoft Graph, which alone can verify it")
        # The algorithm is looked at before a key is: a caller must not make us fetch keys for it.
        if header.get("alg") != "RS256" or not isinstance(header.get("kid"), str):
            raise TokenError("it is not signed with RS256 by a key with an id")
        key = await self._keys.find(header["kid"])
        if key is None:
            raise TokenError("its key is not one of the tenant's")
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=["RS256"],
            audience=self._audiences,
            issuer=self._issuers,
            leeway=_LEEWAY_S,
            options={"require": _REQUIRED},
        )
        return claims


def entra_tokens(settings: AccessSettings) -> EntraTokens | None:
    """What the settings ask for; None where they name no tenant."""
    if settings.entra_tenant is None:
        return None
    return EntraTokens(
        settings.entra_tenant,
        settings.entra_audiences,
        settings.entra_roles,
        settings.entra_clients,
    )


def _rights(claims: Mapping[str, Any]) -> set[str]:
    """An application's roles and a person's scopes."""
    roles, scopes = claims.get("roles", []), claims.get("scp", "")
    held = {role for role in roles if isinstance(role, str)} if isinstance(roles, list) else set()
    return held | set(scopes.split() if isinstance(scopes, str) else ())
