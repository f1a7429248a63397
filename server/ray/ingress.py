"""The HTTP application as Ray Serve runs it: the same as anywhere but for where its engines are."""

import asyncio
import logging
import sys
from collections.abc import Callable
from functools import partial

from fastapi import FastAPI
from prometheus_client import Metric
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from scoring.logs import configure_logging

from ..app import create_app
from ..metrics import Metrics
from ..served_checkpoint import served_checkpoint
from ..serving import SWITCH_INTERVAL_S, load_processor
from ..settings import Settings
from .fleet import fleet_of
from .ray_engine import RayEngine
from .shared_quotas import SharedQuotas

logger = logging.getLogger("phi3v")

ENGINE, QUOTAS, INGRESS = "Engine", "Quotas", "Ingress"
"""The deployments' names, by which a Serve config may override their options."""

# Prometheus waits ten seconds for a page.
_PATIENCE_S = 5.0


def ingress_app(settings: Settings) -> Callable[[], FastAPI]:
    """What a replica of the ingress calls to have its application."""

    def build() -> FastAPI:
        configure_logging(settings.log_level.upper(), settings.log_format)
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        context = serve.get_replica_context()
        processor = load_processor(settings, served_checkpoint(settings))

        def make_engine() -> RayEngine:
            return RayEngine(
                serve.get_deployment_handle(ENGINE, context.app_name),
                fleet_of(context.app_name, ENGINE),
                num_replicas=settings.replicas,
                max_num_seqs=settings.max_num_seqs,
                max_queued=settings.max_queued_requests,
                max_queued_tokens=settings.max_queued_tokens,
            )

        quotas = None
        if has_quotas(settings):
            quotas = SharedQuotas(serve.get_deployment_handle(QUOTAS, context.app_name))
        copies = serve.get_deployment_handle(INGRESS, context.app_name)
        app = create_app(
            settings,
            processor,
            make_engine,
            on_failure=logger.error,
            warms_up=True,
            quotas=quotas,
            replica=context.replica_id.unique_id,
            gather_metrics=partial(_families_of, copies),
        )
        app.add_middleware(OneRequestId)
        app.add_middleware(HangUps)
        return app

    return build


class IngressReplica:
    """The deployment's class, to which Ray adds the application, as `app`."""

    app: FastAPI

    def __init__(self, *parts: object) -> None:
        """parts: the other deployments; their handles are got by name."""

    async def metric_families(self) -> list[Metric]:
        metrics: Metrics = self.app.state.metrics
        return await asyncio.to_thread(metrics.families)


async def _families_of(copies: DeploymentHandle) -> list[Metric]:
    """Of all copies of the application that answer in time; this one may be among them."""
    try:
        answers = await copies.broadcast("metric_families").results_async(
            timeout_s=_PATIENCE_S, return_exceptions=True
        )
    except (TimeoutError, RayError, RayServeException) as error:
        logger.warning("other copies' metrics are left out: %s", type(error).__name__)
        return []
    return [family for answer in answers if isinstance(answer, list) for family in answer]


class OneRequestId:
    """ASGI middleware. Ray's proxy gives each request its x-request-id, if the caller did not, and
    echoes it: the application, which does the same, need not say it again."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_without_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                del MutableHeaders(scope=message)["x-request-id"]
            await send(message)

        await self._app(scope, receive, send_without_id)


class HangUps:
    """ASGI middleware. Where a caller has left, what Ray hands on may break instead of saying so;
    the application hears the same in either case."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def receive_or_disconnect() -> Message:
            try:
                return await receive()
            except RayError:
                return {"type": "http.disconnect"}

        await self._app(scope, receive_or_disconnect, send)


def has_quotas(settings: Settings) -> bool:
    return (settings.requests_per_minute, settings.tokens_per_minute) != (None, None)
