"""One page of metrics for several copies of the application."""

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from server.metrics import Metrics, metrics_page
from server.request_record import RequestRecord


class Preemptions(Collector):
    """What a copy of the application has heard of an engine."""

    def __init__(self, heard: int) -> None:
        self._heard = heard

    def collect(self) -> list[Metric]:
        family = CounterMetricFamily("preemptions", "…", labels=("engine",))
        family.add_metric(("one",), self._heard)
        return [family]


def copy(name: str, *, num_requests: int, heard: int) -> list[Metric]:
    metrics = Metrics(name)
    metrics.add(Preemptions(heard))
    for _ in range(num_requests):
        metrics.finish(RequestRecord(), "/chat/completions", 200)
    return metrics.families()


def test_each_copy_has_its_series_and_an_engine_its_latest() -> None:
    first = copy("a", num_requests=2, heard=7)
    page = metrics_page([*first, *copy("b", num_requests=3, heard=5), *first]).decode()
    families = {family.name: family for family in text_string_to_metric_families(page)}
    assert page.count("# TYPE phi3v_requests_total ") == 1
    requests = [one for one in families["phi3v_requests"].samples if one.name.endswith("_total")]
    assert {one.labels["replica"]: one.value for one in requests} == {"a": 2, "b": 3}
    (preemptions,) = (one for one in families["preemptions"].samples)
    assert (preemptions.labels, preemptions.value) == ({"engine": "one"}, 7)
