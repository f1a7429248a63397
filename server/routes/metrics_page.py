"""Prometheus's page."""

import asyncio

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from ..metrics import METRICS_PATH, GatherMetrics, Metrics, metrics_page

router = APIRouter(include_in_schema=False)


@router.get(METRICS_PATH)
async def metrics(request: Request) -> Response:
    """Every number there is; in a cluster, of all copies of the application. As private as the
    chat routes."""
    registered: Metrics = request.app.state.metrics
    gather: GatherMetrics | None = request.app.state.gather_metrics
    # In threads: it reads /proc, and writes kilobytes.
    families = await asyncio.to_thread(registered.families)
    if gather is not None:
        families += await gather()
    page = await asyncio.to_thread(metrics_page, families)
    return Response(page, media_type=CONTENT_TYPE_LATEST)
