"""Sees every request from outside: its log line, its metrics, its trace, its `server-timing`."""

import logging
import time
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .auth import PROBE_PATHS
from .metrics import METRICS_PATH, Metrics
from .request_record import CLIENT_LEFT, RequestRecord
from .tracing import TRACEPARENT, Tracer

logger = logging.getLogger(__name__)

# Asked every few seconds, for ever.
_UNOBSERVED = PROBE_PATHS | {METRICS_PATH}
_CLIENT_LEFT_STATUS = 499


class Observer:
    """ASGI middleware, the outermost one: nothing is answered that it does not see. Never a prompt,
    a key or a query in what it tells."""

    def __init__(self, app: ASGIApp, metrics: Metrics, tracer: Tracer | None) -> None:
        self._app = app
        self._metrics = metrics
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _UNOBSERVED:
            await self._app(scope, receive, send)
            return
        record = RequestRecord(self._metrics.inter_token_latency.observe)
        scope.setdefault("state", {})["record"] = record
        if self._tracer is not None:
            record.traceparent = self._tracer.begin(scope)
            TRACEPARENT.set(record.traceparent)
        status = 0

        async def send_with_timing(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if stages := record.milliseconds():
                    timing = ", ".join(f"{name};dur={ms}" for name, ms in stages.items())
                    MutableHeaders(scope=message)["server-timing"] = timing
            await send(message)

        try:
            await self._app(scope, receive, send_with_timing)
        finally:
            if status == _CLIENT_LEFT_STATUS:
                record.abort_reason = CLIENT_LEFT
            route = getattr(scope.get("route"), "path", "none")
            self._metrics.finish(record, route, status)
            trace_id = None
            if self._tracer is not None:
                trace_id = self._tracer.export(record, scope, route, status)
            self._log(scope, record, status, trace_id)

    def _log(self, scope: Scope, record: RequestRecord, status: int, trace_id: str | None) -> None:
        path = scope["path"].encode("unicode_escape").decode()[:200]
        fields: dict[str, Any] = {
            "status": status,
            "ms": round((time.monotonic() - record.arrived) * 1000, 1),
            **scope["state"].get("ids", {}),
        }
        if trace_id is not None:
            fields["trace_id"] = trace_id
        if (completion := record.completion) is not None:
            fields |= {
                "completion": completion.id,
                "prompt_tokens": completion.num_prompt_tokens,
                "cached_tokens": completion.num_cached_tokens,
                "image_tokens": completion.num_image_tokens,
                "completion_tokens": completion.num_output_tokens,
                "stages_ms": record.milliseconds(),
            }
        if record.finish_reason is not None:
            fields["finish_reason"] = record.finish_reason.value
        if record.abort_reason is not None:
            fields["aborted"] = record.abort_reason
        logger.info("%s %s", scope["method"], path, extra={"fields": fields})
