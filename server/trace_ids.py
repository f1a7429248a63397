"""Ids of spans that are known before the spans are made. Imports the extra otel."""

from opentelemetry.sdk.trace.id_generator import RandomIdGenerator


class GivenIds(RandomIdGenerator):
    """Random ids, but for those that were given for the next span."""

    def __init__(self) -> None:
        self._trace_id: int | None = None
        self._span_id: int | None = None

    def give(self, traceparent: str) -> None:
        """The next span is the one that this names, in W3C's format."""
        _, trace_id, span_id, _ = traceparent.split("-")
        self._trace_id, self._span_id = int(trace_id, 16), int(span_id, 16)

    def generate_trace_id(self) -> int:
        given, self._trace_id = self._trace_id, None
        return given or super().generate_trace_id()

    def generate_span_id(self) -> int:
        given, self._span_id = self._span_id, None
        return given or super().generate_span_id()
