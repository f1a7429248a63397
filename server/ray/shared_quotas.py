"""Quotas that all ingress replicas share: kept by one actor, a deployment of one replica."""

import asyncio
import logging

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from ..errors import RateLimitError
from ..quotas import Left, Quotas

logger = logging.getLogger("phi3v")

# A keeper that does not answer, for it is being replaced, say, must not stop the service.
_PATIENCE_S = 2.0


class QuotaKeeper:
    """The deployment's class."""

    def __init__(self, requests_per_minute: int | None, tokens_per_minute: int | None) -> None:
        self._quotas = Quotas(requests_per_minute, tokens_per_minute)

    async def take(self, caller: bytes, name: str, amount: int) -> tuple[Left, str | None, int]:
        """What is left then; if there was too little, why it was refused, and for how many
        seconds."""
        allowance = self._quotas.of(caller)
        try:
            await allowance.take(name, amount)
        except RateLimitError as error:
            return allowance.left, str(error), int(error.headers["Retry-After"])
        return allowance.left, None, 0

    async def give_back(self, caller: bytes, name: str, amount: int) -> None:
        self._quotas.of(caller).give_back(name, amount)


class SharedQuotas:
    """An AllowanceKeeper that asks the QuotaKeeper."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    def of(self, caller: bytes) -> "_SharedAllowance":
        return _SharedAllowance(self._handle, caller)


class _SharedAllowance:
    """One request's. What is left is as of its last question."""

    def __init__(self, handle: DeploymentHandle, caller: bytes) -> None:
        self._handle = handle
        self._caller = caller
        self.left: Left = {}

    async def take(self, name: str, amount: int) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                left, refusal, wait_s = await self._handle.take.remote(self._caller, name, amount)
        except (TimeoutError, RayError, RayServeException) as error:
            logger.warning("quotas cannot be asked (%s): passed", type(error).__name__)
            return
        self.left = left
        if refusal is not None:
            raise RateLimitError(refusal, wait_s)

    def give_back(self, name: str, amount: int) -> None:
        self._handle.give_back.remote(self._caller, name, amount)
