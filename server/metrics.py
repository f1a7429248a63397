"""What is counted and timed, for Prometheus. Labels are closed sets: no caller can add a series."""

from collections.abc import Awaitable, Callable, Iterable, Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    Metric,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from .request_record import RequestRecord

METRICS_PATH = "/metrics"

GatherMetrics = Callable[[], Awaitable[list[Metric]]]
"""Asks the other copies of an application for their families."""

_SECONDS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)
_GAP_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5)
_LAG_SECONDS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)


class Metrics:
    """One application's. Names and units are the field's: seconds, bytes, tokens, `_total`."""

    def __init__(self, replica: str | None = None) -> None:
        """replica: a label of every series, for an application that is one of several."""
        self._replica = replica
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        self._requests = Counter(
            "phi3v_requests", "Requests answered.", ("route", "code"), registry=registry
        )
        self._finished = Counter(
            "phi3v_completions",
            "Completions that ended well.",
            ("finish_reason",),
            registry=registry,
        )
        self._aborted = Counter(
            "phi3v_completions_aborted",
            "Completions that did not: the client left, or an error.",
            ("reason",),
            registry=registry,
        )
        self._prompt_tokens = Counter(
            "phi3v_prompt_tokens",
            "Prompt tokens, those from the cache included.",
            registry=registry,
        )
        self._cached_tokens = Counter(
            "phi3v_prompt_tokens_cached", "Prompt tokens from the prefix cache.", registry=registry
        )
        self._image_tokens = Counter(
            "phi3v_image_tokens", "Prompt tokens that pictures take.", registry=registry
        )
        self._images = Counter("phi3v_images", "Pictures in prompts.", registry=registry)
        self._generation_tokens = Counter(
            "phi3v_generation_tokens", "Tokens generated.", registry=registry
        )
        self._queue_time = self._seconds(
            "phi3v_request_queue_time", "From the prompt's being ready to its first step."
        )
        self._time_to_first_token = self._seconds(
            "phi3v_time_to_first_token", "From a request's arrival to its first token."
        )
        self._e2e_latency = self._seconds(
            "phi3v_e2e_request_latency", "From a request's arrival to its last token."
        )
        self._image_decode = self._seconds(
            "phi3v_image_decode", "Fetching, decoding and tiling a request's pictures."
        )
        self._image_encode = self._seconds(
            "phi3v_image_encode", "From a request's first step until its pictures are encoded."
        )
        self.inter_token_latency = self._seconds(
            "phi3v_inter_token_latency", "Between two tokens of a request.", _GAP_SECONDS
        )
        self.event_loop_lag = self._seconds(
            "phi3v_event_loop_lag",
            "How late the event loop wakes, looked at twice a second.",
            _LAG_SECONDS,
        )

    def _seconds(self, name: str, what: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
        return Histogram(f"{name}_seconds", what, buckets=buckets, registry=self.registry)

    def add(self, collector: Collector) -> None:
        self.registry.register(collector)

    def families(self) -> list[Metric]:
        """All of it. Of one that is one of several, each series has the label replica, but for
        those of engines, which several may tell of."""
        families = list(self.registry.collect())
        if self._replica is not None:
            for family in families:
                family.samples = [_labelled(sample, self._replica) for sample in family.samples]
        return families

    def finish(self, record: RequestRecord, route: str, status: int) -> None:
        """A request is over."""
        self._requests.labels(route, str(status)).inc()
        if record.abort_reason is not None:
            self._aborted.labels(record.abort_reason).inc()
        if record.completion is not None:
            self._finish_completion(record)

    def _finish_completion(self, record: RequestRecord) -> None:
        completion = record.completion
        assert completion is not None
        stages = record.stages()
        for name, histogram in (
            ("decode_images", self._image_decode),
            ("queue", self._queue_time),
            ("encode_images", self._image_encode),
        ):
            if name in stages:
                start, end = stages[name]
                histogram.observe(end - start)
        if record.first_token is not None:
            self._prompt_tokens.inc(completion.num_prompt_tokens)
            self._cached_tokens.inc(completion.num_cached_tokens)
            self._image_tokens.inc(completion.num_image_tokens)
            self._images.inc(completion.num_images)
            self._generation_tokens.inc(completion.num_output_tokens)
            self._time_to_first_token.observe(record.first_token - record.arrived)
        if record.finish_reason is not None and record.last_token is not None:
            self._finished.labels(record.finish_reason.value).inc()
            self._e2e_latency.observe(record.last_token - record.arrived)


def metrics_page(families: Iterable[Metric]) -> bytes:
    """In Prometheus's format. families: of one application or of several, whose series come
    together below each name. What several tell of an engine is as old as each one's last report:
    of such a series the largest value stays, so that no counter goes back."""
    return generate_latest(_Merged(families))


class _Merged(CollectorRegistry):
    def __init__(self, families: Iterable[Metric]) -> None:
        super().__init__()
        self._families = families

    def collect(self) -> Iterator[Metric]:
        merged: dict[str, Metric] = {}
        series: dict[str, dict[tuple[str, frozenset[tuple[str, str]]], Sample]] = {}
        for family in self._families:
            name = family.name
            merged.setdefault(name, Metric(name, family.documentation, family.type, family.unit))
            known = series.setdefault(name, {})
            for sample in family.samples:
                key = (sample.name, frozenset(sample.labels.items()))
                if key not in known or known[key].value < sample.value:
                    known[key] = sample
        for name, family in merged.items():
            family.samples = list(series[name].values())
            yield family


def _labelled(sample: Sample, replica: str) -> Sample:
    if "engine" in sample.labels:
        return sample
    return sample._replace(labels={"replica": replica, **sample.labels})
