"""deploy/ray, as Ray Serve and KubeRay read it."""

import re
from typing import Any

import pytest
import yaml

from model_config.card import card_of_hub_id
from server.settings import load_settings

from .dockerfile import PROJECT
from .test_image import pins


@pytest.fixture(scope="module")
def service() -> dict[str, Any]:
    text = (PROJECT / "deploy/ray/rayservice.yaml").read_text()
    return dict(yaml.safe_load(text)["spec"])


def test_kuberays_probes_ask_where_rays_proxies_listen(service: dict[str, Any]) -> None:
    """At the port that is named serve, else at 8000; a pod that does not answer gets no request."""
    port = yaml.safe_load(service["serveConfigV2"])["http_options"]["port"]
    cluster = service["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        assert {"containerPort": port, "name": "serve"} in container["ports"]


def test_kuberay_finds_where_to_deploy_to(service: dict[str, Any]) -> None:
    """Where the head names any port, the head's service has those alone."""
    (head,) = service["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"]
    assert {"gcs-server", "dashboard", "client"} <= {port["name"] for port in head["ports"]}


def test_kuberay_is_told_the_images_ray(service: dict[str, Any]) -> None:
    assert service["rayClusterConfig"]["rayVersion"] == pins("ray")["ray"]


def test_every_hub_id_is_a_models() -> None:
    """One had another capital letter, and nothing could start."""
    texts = [path.read_text() for path in (PROJECT / "deploy").rglob("*.y*ml")]
    found = {hub_id for text in texts for hub_id in re.findall(r"microsoft/Phi[\w.-]+", text)}
    assert found
    assert [hub_id for hub_id in found if card_of_hub_id(hub_id) is None] == []


def test_whoever_reaches_a_cluster_is_asked_for_a_key(service: dict[str, Any]) -> None:
    """Its proxies listen on all of each node's addresses."""
    texts = [(PROJECT / "deploy/ray/serve.yaml").read_text(), service["serveConfigV2"]]
    for config in map(yaml.safe_load, texts):
        (application,) = config["applications"]
        settings = load_settings({**application["args"], "cluster": "ray"}, {})
        assert (config["http_options"]["host"], settings.host) == ("0.0.0.0", "0.0.0.0")
        assert settings.asks_who_calls
