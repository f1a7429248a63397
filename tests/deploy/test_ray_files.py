"""deploy/ray, as KubeRay reads it."""

from typing import Any

import pytest
import yaml

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
