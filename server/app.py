"""The FastAPI application: its parts put together, and the engine's life within its own."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from scoring.engine_client import EngineClient
from scoring.errors import ScoringError

from . import errors
from .auth import CallerAuth
from .body_limit import BodyLimit
from .canary import Canary
from .completion import Processor
from .drain import Drain, DrainGuard
from .engine_collector import EngineCollector
from .entra import EntraTokens, entra_tokens
from .event_loop import watch_event_loop
from .header_limit import HeaderLimit
from .keys import key_ring
from .loading import Loading
from .loopback_guard import LoopbackGuard
from .metrics import GatherMetrics, Metrics
from .observer import Observer
from .quotas import AllowanceKeeper, QuotaGuard, Quotas
from .request_ids import RequestIds
from .routes import chat, documents, health, info, metrics_page, openai, playground, score
from .settings import Settings
from .streaming import ClientLeftError
from .tracing import make_tracer
from .warm_up import warm_up

logger = logging.getLogger(__name__)


def create_app(
    settings: Settings,
    processor: Processor,
    make_engine: Callable[[], EngineClient],
    on_failure: Callable[[str], None],
    tokens: EntraTokens | None = None,
    *,
    warms_up: bool = False,
    quotas: AllowanceKeeper | None = None,
    replica: str | None = None,
    gather_metrics: GatherMetrics | None = None,
) -> FastAPI:
    """The application. make_engine is called in the event loop; on_failure, with a sentence for
    the operator, when the engine could not be built. tokens: for a test whose tokens are not
    signed by Entra ID. warms_up: it is ready only after a few chats of its own. quotas: the
    keeper, if it is not in this process. replica: this application's name among others of a
    cluster, in metrics; gather_metrics: asks them for theirs. Raises SettingsError for a key file
    that cannot be used, or for traces without their packages."""
    metrics = Metrics(replica)
    tracer = make_tracer(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine = make_engine()
        app.state.engine, app.state.processor = engine, processor
        app.state.started = int(time.time())
        app.state.loading = Loading(
            engine, partial(warm_up, engine, processor) if warms_up else None
        )
        app.state.canary = Canary(engine)
        engine.start()
        watching = asyncio.create_task(app.state.loading.report(on_failure))
        metrics.add(EngineCollector(engine, processor.card.served_name))
        lag = asyncio.create_task(watch_event_loop(metrics.event_loop_lag.observe))
        yield
        for task in (watching, lag):
            task.cancel()
        await engine.stop()
        if tracer is not None:
            await tracer.close()
        await asyncio.to_thread(processor.grammars.close)

    app = FastAPI(
        title="phi3v-server",
        description="Phi-3-vision behind the Azure AI Model Inference API.",
        lifespan=lifespan,
        openapi_url=None,  # routes/documents.py gives it out
        redirect_slashes=False,
    )
    _include_routes(app)
    app.state.has_playground = settings.playground
    if settings.playground:
        app.include_router(playground.router)
    app.add_exception_handler(errors.APIError, errors.on_error)
    app.add_exception_handler(ScoringError, errors.on_error)
    app.add_exception_handler(RequestValidationError, errors.on_validation_error)
    app.add_exception_handler(HTTPException, errors.on_http_error)
    app.add_exception_handler(ClientLeftError, _on_client_left)
    app.add_middleware(
        BodyLimit,
        max_bytes=settings.max_body_mib << 20,
        max_receive_s=settings.max_receive_s,
    )
    own = Quotas(settings.requests_per_minute, settings.tokens_per_minute)
    app.add_middleware(QuotaGuard, quotas=quotas or own)
    keys = app.state.keys = key_ring(settings)
    if settings.asks_who_calls:
        app.add_middleware(CallerAuth, keys=keys, tokens=tokens or entra_tokens(settings))
    elif not settings.no_auth:
        app.add_middleware(LoopbackGuard)
    app.add_middleware(HeaderLimit)
    app.state.drain, app.state.stall_s = Drain(), settings.stall_s
    app.add_middleware(DrainGuard, drain=app.state.drain)
    app.add_middleware(RequestIds)
    app.state.metrics, app.state.log_prompts = metrics, settings.log_prompts
    app.state.gather_metrics = gather_metrics
    app.add_middleware(Observer, metrics=metrics, tracer=tracer)
    return app


def _include_routes(app: FastAPI) -> None:
    """Every route there is, under every name that clients know it by: an endpoint given as
    https://…/score, say, makes the SDKs ask for /score/chat/completions."""
    for prefix in ("", "/models", "/score"):
        app.include_router(info.router, prefix=prefix)
        app.include_router(chat.router, prefix=prefix)
    for prefix in ("/v1", "/openai/v1", "/score/v1"):
        app.include_router(openai.router, prefix=prefix)
    for router in (
        openai.deployments,
        score.router,
        health.router,
        documents.router,
        metrics_page.router,
    ):
        app.include_router(router)


async def _on_client_left(_: Request, __: Exception) -> Response:
    """Nobody reads it; 499 is what the log line shows."""
    return Response(status_code=499)
