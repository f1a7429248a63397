"""Prometheus and Grafana as compose.yml brings them up: what they ask for, the server exports."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.http.running_server import RunningServer, ready_server

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/phi3v.json").read_text())
ALERTS = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())
COMPOSE = yaml.safe_load((DEPLOY / "compose.yml").read_text())
_METRIC = re.compile(r"\b(?:phi3v|process)_[a-z0-9_]+\b")
# There only with a GPU.
ON_A_GPU = {"phi3v_gpu_memory_bytes"}


def rules() -> list[dict[str, Any]]:
    return [rule for group in ALERTS["groups"] for rule in group["rules"]]


def queries() -> dict[str, str]:
    """Every expression of dashboard and alerts, by a name."""
    panels = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
    }
    return panels | {rule["alert"]: rule["expr"] for rule in rules()}


@pytest.fixture(scope="module")
def exported(
    demo_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, set[str]]]:
    """The labels of every series, by its name, of a server that has answered."""
    log = tmp_path_factory.mktemp("logs") / "monitoring.log"
    with ready_server(log, demo_checkpoint) as server:
        server.text("hi", max_tokens=2)
        yield _series(server)


def _series(server: RunningServer) -> dict[str, set[str]]:
    series: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(server.get("/metrics").text):
        if not family.samples:  # a label that no request has brought about yet
            series.setdefault(family.name + "_total", set())
        for sample in family.samples:
            series.setdefault(sample.name, set()).update(sample.labels)
    return series


@pytest.mark.parametrize("name", queries())
def test_every_query_names_what_the_server_exports(
    name: str, exported: dict[str, set[str]]
) -> None:
    asked = set(_METRIC.findall(queries()[name]))
    assert asked - exported.keys() <= ON_A_GPU
    assert asked or name == "Phi3vDown"


def test_a_query_for_what_is_not_exported_would_be_found(exported: dict[str, set[str]]) -> None:
    assert "phi3v_tokens_total" not in exported
    assert set(_METRIC.findall("rate(phi3v_tokens_total[5m])")) == {"phi3v_tokens_total"}


def test_the_dashboard_asks_the_data_source_that_is_provisioned() -> None:
    file = DEPLOY / "grafana/provisioning/datasources/prometheus.yml"
    (source,) = yaml.safe_load(file.read_text())["datasources"]
    assert {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]} == {source["uid"]}
    assert source["url"] == "http://prometheus:9090"
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


def test_no_panel_lies_over_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


def test_what_compose_mounts_is_there_and_prometheus_finds_the_server() -> None:
    services = COMPOSE["services"]
    for service in services.values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).is_dir(), volume
    scraping = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    (job,) = scraping["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    name, port = target.split(":")
    assert services[name]["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert job["authorization"]["credentials_file"] == "/run/secrets/api_key"
    assert "api_key" in services["prometheus"]["secrets"]
    assert [DEPLOY / "prometheus" / file for file in scraping["rule_files"]] == [
        DEPLOY / "prometheus/alerts.yml"
    ]


def test_compose_can_create_every_container() -> None:
    """It copies a secret that is no file into the container, and refuses if that is read-only."""
    copied = {name for name, secret in COMPOSE["secrets"].items() if "file" not in secret}
    for name, service in COMPOSE["services"].items():
        assert not (service.get("read_only") and copied & set(service.get("secrets", []))), name


def test_every_port_is_published_on_loopback_only() -> None:
    ports = [port for service in COMPOSE["services"].values() for port in service["ports"]]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_every_alert_says_how_bad_it_is_and_where() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert "{{ $labels.instance }}" in rule["annotations"]["summary"]


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool (Debian: prometheus) is missing")
def test_promtool_takes_the_rules() -> None:
    file = str(DEPLOY / "prometheus/alerts.yml")
    done = subprocess.run(
        ["promtool", "check", "rules", file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
