"""Traces, as a collector and Application Insights receive them."""

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from .pictures import data_url, plain_png
from .running_server import RunningServer, ready_server, wait_until

CANARY = "canary in a coal mine"
TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
KEY = "11111111-2222-4333-8444-555555555555"


class Collector:
    """An HTTP server that keeps what is posted to it, and is content with all."""

    def __init__(self) -> None:
        self.posts: list[tuple[str, bytes]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.posts.append((self.path, body))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def bodies(self, path: str) -> list[bytes]:
        return [body for posted, body in self.posts if posted.endswith(path)]

    def spans(self) -> list[Span]:
        return [
            span
            for body in self.bodies("/v1/traces")
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever)
    thread.start()
    yield collector
    collector.server.shutdown()
    thread.join()
    collector.server.server_close()


def ask(server: RunningServer) -> dict[str, Any]:
    picture = {"type": "image_url", "image_url": {"url": data_url(plain_png(60, 90))}}
    content = [picture, {"type": "text", "text": CANARY}]
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 3, "temperature": 0}
    answer = server.post(body, traceparent=f"00-{TRACE_ID}-{PARENT_ID}-01")
    assert answer.status_code == 200
    return dict(answer.json())


def attributes(span: Span) -> dict[str, Any]:
    values = {}
    for item in span.attributes:
        kind = item.value.WhichOneof("value")
        value = getattr(item.value, kind)
        values[item.key] = (
            [v.string_value for v in value.values] if kind == "array_value" else value
        )
    return values


def test_a_chat_continues_its_callers_trace_with_a_span_for_each_stage(
    demo_checkpoint: Path, logs: Path
) -> None:
    with collecting() as collector:
        variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        with ready_server(logs / "otlp.log", demo_checkpoint, variables=variables) as server:
            answer = ask(server)

            def trace() -> list[Span]:
                return [span for span in collector.spans() if span.trace_id.hex() == TRACE_ID]

            spans = wait_until(trace, 10, "the trace has arrived")
            (line,) = [line for line in server.log.splitlines() if TRACE_ID in line]
            assert json.loads(line)["completion"] == answer["id"]
    (chat,) = [span for span in spans if span.parent_span_id.hex() == PARENT_ID]
    assert chat.name == "chat phi3v-demo"
    stages = sorted((s for s in spans if s is not chat), key=lambda s: s.start_time_unix_nano)
    names = ["validate", "decode_images", "queue", "encode_images", "prefill", "decode"]
    assert [stage.name for stage in stages] == names
    assert {stage.parent_span_id for stage in stages} == {chat.span_id}
    assert chat.start_time_unix_nano == stages[0].start_time_unix_nano
    assert stages[-1].end_time_unix_nano <= chat.end_time_unix_nano
    found = attributes(chat)
    assert found["gen_ai.operation.name"] == "chat"
    assert found["gen_ai.request.model"] == "phi3v-demo"
    assert found["gen_ai.response.id"] == answer["id"]
    assert found["gen_ai.request.max_tokens"] == 3
    assert found["gen_ai.usage.input_tokens"] == answer["usage"]["prompt_tokens"]
    assert found["gen_ai.usage.output_tokens"] == answer["usage"]["completion_tokens"]
    assert found["gen_ai.response.finish_reasons"] == [answer["choices"][0]["finish_reason"]]
    assert found["http.response.status_code"] == 200
    assert CANARY.encode() not in b"".join(collector.bodies("/v1/traces"))


@pytest.mark.parametrize("how", ["azure-ml", "connection-string"])
def test_application_insights_receives_the_same(
    how: str, demo_checkpoint: Path, logs: Path
) -> None:
    with collecting() as collector:
        connection = f"InstrumentationKey={KEY};IngestionEndpoint={collector.url}"
        variables = {"OTEL_BSP_SCHEDULE_DELAY": "100", "HTTP_PROXY": "", "http_proxy": ""}
        if how == "azure-ml":
            # The platform gives the key alone; where it goes is then Azure's own address.
            variables |= {"AML_APP_INSIGHTS_ENABLED": "true", "AML_APP_INSIGHTS_KEY": KEY}
            with ready_server(logs / "aml.log", demo_checkpoint, variables=variables) as server:
                ask(server)
                wait_until(lambda: TRACE_ID in server.log, 5, "the trace is made")
            return
        variables["APPLICATIONINSIGHTS_CONNECTION_STRING"] = connection
        with ready_server(logs / "insights.log", demo_checkpoint, variables=variables) as server:
            answer = ask(server)

            def requests() -> list[dict[str, Any]]:
                entries = [e for body in collector.bodies("/track") for e in json.loads(body)]
                data = [e["data"]["baseData"] for e in entries if e["name"].endswith("Request")]
                return [d for d in data if answer["id"] in json.dumps(d)]

            (request,) = wait_until(requests, 10, "the request has arrived")
    assert request["responseCode"] == "200"
    assert request["success"] is True
    assert CANARY.encode() not in b"".join(collector.bodies("/track"))


def test_a_collector_that_is_not_there_disturbs_nobody(demo_checkpoint: Path, logs: Path) -> None:
    variables = {"OTEL_BSP_SCHEDULE_DELAY": "100"}
    flags = ("--otlp-endpoint", "http://127.0.0.1:9")
    with ready_server(logs / "no-otlp.log", demo_checkpoint, *flags, variables=variables) as server:
        ask(server)
        assert ask(server)["usage"]["completion_tokens"] > 0
        server.process.terminate()
        assert server.process.wait(10) == 0, "it does not wait for the collector"
