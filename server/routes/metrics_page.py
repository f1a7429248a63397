"""Prometheus's page."""

import asyncio

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from ..metrics import METRICS_PATH, Metrics

router = APIRouter(include_in_schema=False)


@router.get(METRICS_PATH)
async def metrics(request: Request) -> Response:
    """Every number there is. As private as the chat routes."""
    registered: Metrics = request.app.state.metrics
    # In a thread: it reads /proc, and writes kilobytes.
    page = await asyncio.to_thread(registered.page)
    return Response(page, media_type=CONTENT_TYPE_LATEST)
