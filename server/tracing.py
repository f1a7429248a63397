"""Traces: a span for every request and one for each of its stages, in OpenTelemetry's names.

They are made when a request is over, out of its record, so that they cost its tokens nothing. The
caller's trace goes on where it sends a W3C `traceparent`, and so does ours on other machines. Needs
the extra `otel`, which is imported only where traces are asked for.
"""

import asyncio
import threading
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers
from starlette.types import Scope

from .request_record import RequestRecord
from .settings import Settings, SettingsError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from .trace_ids import GivenIds

_CLOSE_S = 2.0

TRACEPARENT: ContextVar[str | None] = ContextVar("traceparent", default=None)
"""Of the span that the request of the current task will have; what it has done elsewhere belongs
below it."""


class Tracer:
    """Exports in a thread of its own; what cannot be delivered is dropped, with a line in the
    log."""

    def __init__(self, provider: "TracerProvider", ids: "GivenIds") -> None:
        self._provider = provider
        self._ids = ids
        self._tracer = provider.get_tracer("phi3v-server")

    def begin(self, scope: Scope) -> str:
        """Choose the id of a request's span → its traceparent."""
        from opentelemetry.trace import get_current_span
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        context = TraceContextTextMapPropagator().extract(dict(Headers(scope=scope)))
        caller = get_current_span(context).get_span_context()
        trace_id = caller.trace_id if caller.is_valid else self._ids.generate_trace_id()
        flags = caller.trace_flags if caller.is_valid else 1
        return f"00-{trace_id:032x}-{self._ids.generate_span_id():016x}-{flags:02x}"

    def export(self, record: RequestRecord, scope: Scope, route: str, status: int) -> str:
        """Hand over the trace of a request that is over, and return its id."""
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        now = time.monotonic()
        to_epoch = time.time() - now

        def ns(moment: float) -> int:
            return int((moment + to_epoch) * 1e9)

        chat = record.completion
        if record.traceparent is not None:
            self._ids.give(record.traceparent)
        span = self._tracer.start_span(
            f"{scope['method']} {route}" if chat is None else f"chat {chat.model}",
            context=TraceContextTextMapPropagator().extract(dict(Headers(scope=scope))),
            kind=SpanKind.SERVER,
            start_time=ns(record.arrived),
            attributes=self._attributes(record, scope, route, status),
        )
        if status >= 500 or record.abort_reason is not None:
            span.set_status(Status(StatusCode.ERROR, record.abort_reason))
        context = set_span_in_context(span)
        for name, (start, end) in record.stages().items():
            stage = self._tracer.start_span(name, context=context, start_time=ns(start))
            stage.end(ns(end))
        span.end(ns(now))
        return f"{span.get_span_context().trace_id:032x}"

    def export_part(
        self, name: str, traceparent: str, start: float, attributes: dict[str, Any]
    ) -> None:
        """Hand over a span of what was done here for a request that is answered elsewhere, from
        start, on time.monotonic's clock, until now."""
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        to_epoch = time.time() - time.monotonic()
        self._tracer.start_span(
            name,
            context=TraceContextTextMapPropagator().extract({"traceparent": traceparent}),
            kind=SpanKind.SERVER,
            start_time=int((start + to_epoch) * 1e9),
            attributes=attributes,
        ).end()

    async def close(self) -> None:
        """Deliver what is there, if that does not take long: exporters try again and again."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        await asyncio.to_thread(closing.join, _CLOSE_S)

    def _attributes(
        self, record: RequestRecord, scope: Scope, route: str, status: int
    ) -> dict[str, Any]:
        attributes: dict[str, Any] = {
            "http.request.method": scope["method"],
            "http.route": route,
            "http.response.status_code": status,
        }
        if (completion := record.completion) is None:
            return attributes
        attributes |= {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "phi3v-server",
            "gen_ai.request.model": completion.model,
            "gen_ai.request.max_tokens": completion.params.max_tokens,
            "gen_ai.request.temperature": completion.params.temperature,
            "gen_ai.request.top_p": completion.params.top_p,
            "gen_ai.response.model": completion.model,
            "gen_ai.response.id": completion.id,
            "gen_ai.usage.input_tokens": completion.num_prompt_tokens,
            "gen_ai.usage.output_tokens": completion.num_output_tokens,
            "phi3v.usage.cached_tokens": completion.num_cached_tokens,
            "phi3v.usage.image_tokens": completion.num_image_tokens,
        }
        if record.finish_reason is not None:
            attributes["gen_ai.response.finish_reasons"] = [record.finish_reason.value]
        return attributes


def make_tracer(settings: Settings) -> Tracer | None:
    """None where traces go nowhere. Raises SettingsError where the extra is not installed."""
    if settings.otlp_endpoint is None and settings.app_insights is None:
        return None
    try:
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        from .trace_ids import GivenIds

        ids = GivenIds()
        provider = TracerProvider(
            resource=Resource.create({SERVICE_NAME: "phi3v-server"}),
            id_generator=ids,
            shutdown_on_exit=False,
        )
        for exporter in _exporters(settings):
            provider.add_span_processor(BatchSpanProcessor(exporter))
    except ImportError as error:
        raise SettingsError(
            f"traces need the extra: pip install 'phi3v-server[otel]' ({error})"
        ) from error
    return Tracer(provider, ids)


def _exporters(settings: Settings) -> list[Any]:
    exporters: list[Any] = []
    if settings.otlp_endpoint is not None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        exporters.append(OTLPSpanExporter(f"{settings.otlp_endpoint.rstrip('/')}/v1/traces"))
    if settings.app_insights is not None:
        from azure.monitor.opentelemetry.exporter import AzureMonitorTraceExporter

        exporters.append(
            AzureMonitorTraceExporter(
                connection_string=settings.app_insights, disable_offline_storage=True
            )
        )
    return exporters
