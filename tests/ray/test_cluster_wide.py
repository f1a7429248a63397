"""What is one in a cluster with two copies of the application: quotas, metrics and traces."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from prometheus_client.parser import text_string_to_metric_families

from ..http.running_server import RunningServer, user, wait_until
from ..http.test_tracing import PARENT_ID, TRACE_ID, Collector, attributes, collecting
from .conftest import ready_cluster

_PER_MINUTE = 12
_CHAT = "/chat/completions"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
def pair(demo_checkpoint: Path, logs: Path, collector: Collector) -> Iterator[RunningServer]:
    """Two copies of the application, an engine, and a key whose quota is small."""
    flags = ("--ingress-replicas", "2", "--requests-per-minute", str(_PER_MINUTE))
    flags += ("--tokens-per-minute", "100000")
    traces = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    log = logs / "pair.log"
    with ready_cluster(log, demo_checkpoint, *flags, api_key="mine", variables=traces) as server:
        yield server


def test_a_trace_goes_on_at_the_replica_that_ran_the_request(
    pair: RunningServer, collector: Collector
) -> None:
    body = {"messages": [user("hi")], "max_tokens": 3}
    answer = pair.post(body, traceparent=f"00-{TRACE_ID}-{PARENT_ID}-01")
    assert answer.status_code == 200

    def engine_spans() -> list[Span]:
        return [span for span in collector.spans() if span.name == "engine"]

    def chat_spans() -> list[Span]:
        return [span for span in collector.spans() if span.parent_span_id.hex() == PARENT_ID]

    wait_until(chat_spans, 20, "the application's span has arrived")
    (chat,) = chat_spans()
    assert attributes(chat)["gen_ai.response.id"] == answer.json()["id"]
    wait_until(
        lambda: any(span.parent_span_id == chat.span_id for span in engine_spans()),
        20,
        "the engine's span has arrived",
    )
    (engine,) = [span for span in engine_spans() if span.parent_span_id == chat.span_id]
    assert engine.trace_id.hex() == chat.trace_id.hex() == TRACE_ID
    (replica,) = (one["name"] for one in pair.state()["engines"])
    assert attributes(engine)["phi3v.replica"] == replica
    assert attributes(engine)["gen_ai.usage.output_tokens"] == 3


def num_requests(server: RunningServer, route: str) -> dict[str, float]:
    """That each copy of the application has answered, as one page of metrics says."""
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(server.get("/metrics").text):
        for sample in family.samples:
            if sample.name == "phi3v_requests_total" and sample.labels["route"] == route:
                found[sample.labels["replica"]] += sample.value
    return found


def test_one_page_of_metrics_has_both_copies(pair: RunningServer) -> None:
    before = num_requests(pair, "/info")
    for _ in range(20):
        assert pair.get("/info").status_code == 200
    after = num_requests(pair, "/info")
    assert len(after) == 2
    assert sum(after.values()) == sum(before.values()) + 20
    # It matters not which of them answers.
    assert all(num_requests(pair, "/info") == after for _ in range(10))
    (engine,) = pair.state()["engines"]
    lines = pair.get("/metrics").text.splitlines()
    running = [line for line in lines if line.startswith("phi3v_num_requests_running{")]
    assert running == [f'phi3v_num_requests_running{{engine="{engine["name"]}"}} 0.0']


def test_a_quota_is_kept_once_for_all_copies(pair: RunningServer) -> None:
    before = num_requests(pair, _CHAT)
    answers = [pair.ask("hi", max_tokens=1) for _ in range(2 * _PER_MINUTE)]
    answered = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(answered) + len(refused) == len(answers)
    after = num_requests(pair, _CHAT)
    assert len(after) == 2
    assert all(after[copy] > before.get(copy, 0) for copy in after), "both copies were asked"
    # Two were asked before, and the bucket fills up while it is used: by one in five seconds.
    assert _PER_MINUTE - 2 <= len(answered) <= _PER_MINUTE + 6
    first, second, third = (
        int(answer.headers["x-ratelimit-remaining-requests"]) for answer in answered[:3]
    )
    assert first > second > third
    assert int(refused[0].headers["retry-after"]) >= 1
    assert answered[0].headers["x-ratelimit-limit-tokens"] == "100000"
