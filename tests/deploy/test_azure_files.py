"""Azure ML's files: Microsoft's own package loads and converts them offline, and what it does not
look at is looked at here."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.clients.own_venv import python_with

from .dockerfile import PROJECT, last_stage

DEPLOY = PROJECT / "deploy"
DEPLOYMENTS = [PROJECT / "deployment.yml", *sorted(DEPLOY.glob("deployment-*.yml"))]
ENVIRONMENTS = sorted(DEPLOY.glob("environment*.yml"))
BATCH = DEPLOY / "batch"
# Of the documentation's list, those that the model fits.
SKUS = {
    "Standard_NC24ads_A100_v4",
    "Standard_NC40ads_H100_v5",
    "Standard_NV36ads_A10_v5",
    "Standard_NC4as_T4_v3",
    "Standard_E16s_v3",
}
LOAD = """
import json, logging, sys, warnings
warnings.simplefilter("ignore"); logging.disable()
from azure.ai.ml import (
    load_batch_endpoint, load_compute, load_environment,
    load_online_deployment, load_online_endpoint,
)
from azure.ai.ml.entities._load_functions import load_model_batch_deployment

found = {}
for file in sys.argv[1:]:
    name = file.rpartition("/")[2]
    if "/batch/" in file and not name.startswith("environment"):
        load = {
            "deployment.yml": load_model_batch_deployment,
            "endpoint.yml": load_batch_endpoint,
            "compute.yml": load_compute,
        }[name]
        one = load(file)
        found[file] = one._to_dict()
        if name == "deployment.yml":
            found[file]["rest"] = one._to_rest_object("x").as_dict()["properties"]
    elif name.startswith("deployment"):
        deployment = load_online_deployment(file)
        deployment._validate()  # raises
        found[file] = {
            "rest": deployment._to_rest_object(location="x").as_dict()["properties"],
        }
    elif name.startswith("environment"):
        environment = load_environment(file)
        found[file] = {"name": environment.name, "rest": environment.inference_config}
    else:
        endpoint = load_online_endpoint(file)
        found[file] = {"rest": endpoint._to_rest_online_endpoint(location="x").as_dict()}
print(json.dumps(found, default=str))
"""


def load(file: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(file.read_text()))


@pytest.fixture(scope="module")
def loaded() -> dict[str, Any]:
    """What azure-ai-ml makes of every file."""
    files = [*map(str, DEPLOYMENTS), *map(str, ENVIRONMENTS), str(DEPLOY / "endpoint.yml")]
    files += map(str, BATCH.glob("*.yml"))
    done = subprocess.run(
        [python_with("azure-ai-ml==1.35.2"), "-c", LOAD, *files],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("file", DEPLOYMENTS, ids=lambda file: file.name)
def test_a_deployment_loads_validates_and_converts(file: Path, loaded: dict[str, Any]) -> None:
    found = loaded[str(file)]
    assert found["rest"]["requestSettings"]["requestTimeout"] == "PT3M"
    assert found["rest"]["livenessProbe"]["initialDelay"] == "PT30S"


def test_environments_and_endpoint_load(loaded: dict[str, Any]) -> None:
    assert loaded[str(DEPLOY / "environment.yml")]["name"] == "phi3v-server"
    assert loaded[str(DEPLOY / "endpoint.yml")]["rest"]["properties"]["authMode"] == "Key"


@pytest.mark.parametrize("file", DEPLOYMENTS, ids=lambda file: file.name)
def test_a_deployment_has_what_azure_ml_would_miss_only_later(file: Path) -> None:
    deployment = load(file)
    request = deployment["request_settings"]
    assert request["request_timeout_ms"] == 180_000, "the most there is"
    variables = deployment["environment_variables"]
    at_once = int(variables["PHI3V_MAX_NUM_SEQS"])
    assert request["max_concurrent_requests_per_instance"] == at_once > 0
    for name, value in variables.items():
        assert isinstance(value, str), f"{name} must be quoted"
    assert deployment["instance_type"] in SKUS
    assert deployment["instance_count"] >= 1
    assert deployment["model_mount_path"].startswith("/")
    assert re.fullmatch(
        r"azureml://registries/azureml/models/[\w.-]+/versions/\d+", deployment["model"]
    )
    environment = re.fullmatch(r"azureml:([\w-]+)@latest", deployment["environment"])
    assert environment
    assert environment[1] in {load(one)["name"] for one in ENVIRONMENTS}
    for kind in ("liveness_probe", "readiness_probe"):
        probe = deployment[kind]
        assert probe["period"] > 0
        assert 1 <= probe["timeout"] < probe["period"]
    readiness = deployment["readiness_probe"]
    assert readiness["period"] * readiness["failure_threshold"] >= 1800, "a cold mount is slow"
    assert re.fullmatch(r"[A-Za-z][-A-Za-z0-9]{1,30}[A-Za-z0-9]", deployment["name"])


@pytest.mark.parametrize("file", DEPLOYMENTS, ids=lambda file: file.name)
def test_the_server_takes_a_deployments_variables(file: Path) -> None:
    from server.settings import load_settings

    variables = load(file)["environment_variables"] | {"AZUREML_MODEL_DIR": "/var/azureml-model"}
    settings = load_settings({}, last_stage().environment | variables)
    assert settings.no_auth, "the front end checks who calls"
    assert settings.max_request_s == 170, "it ends before the platform gives up"
    assert settings.drain_s < 30
    is_cpu = load(file)["environment"] == "azureml:phi3v-server-cpu@latest"
    assert settings.device == ("cpu" if is_cpu else "cuda"), "no silent change of device"


@pytest.mark.parametrize("file", ENVIRONMENTS, ids=lambda file: file.name)
def test_an_environment_tells_the_routes_and_the_port_of_the_image(file: Path) -> None:
    environment = load(file)
    assert ("build" in environment) != ("image" in environment)
    if "build" in environment:
        context = (DEPLOY / environment["build"]["path"]).resolve()
        assert (context / environment["build"]["dockerfile_path"]).is_file()
    config = environment["inference_config"]
    assert {route["port"] for route in config.values()} == {int(last_stage().last("EXPOSE"))}
    assert {name: route["path"] for name, route in config.items()} == {
        "liveness_route": "/health/live",
        "readiness_route": "/health/ready",
        "scoring_route": "/score",
    }


def test_the_endpoint_has_a_name_that_is_allowed() -> None:
    endpoint = load(DEPLOY / "endpoint.yml")
    assert re.fullmatch(r"[A-Za-z][-A-Za-z0-9]{1,30}[A-Za-z0-9]", endpoint["name"])
    assert {load(file)["endpoint_name"] for file in DEPLOYMENTS} == {endpoint["name"]}


def test_the_batch_endpoints_files_load_and_fit_together(loaded: dict[str, Any]) -> None:
    endpoint, deployment, compute, environment = (
        loaded[str(BATCH / f"{name}.yml")]
        for name in ("endpoint", "deployment", "compute", "environment")
    )
    assert deployment["rest"]["retrySettings"] == {"maxRetries": 3, "timeout": "PT10H"}
    assert deployment["endpoint_name"] == endpoint["name"]
    assert deployment["compute"] == f"azureml:{compute['name']}"
    assert deployment["environment"] == f"azureml:{environment['name']}@latest"
    assert compute["size"] in SKUS
    assert compute["min_instances"] == 0, "machines that wait for jobs cost"
    code = deployment["code_configuration"]
    assert (BATCH / code["code"] / code["scoring_script"]).is_file()


def test_the_server_takes_the_batch_deployments_variables() -> None:
    from server.settings import load_settings

    settings = load(BATCH / "deployment.yml")["settings"]
    variables = settings["environment_variables"] | {"AZUREML_MODEL_DIR": "/var/azureml-model"}
    given = {"host": "127.0.0.1"}  # by the script
    server = load_settings(given, last_stage().environment | variables)
    assert server.device == "cuda"
    assert server.max_request_s == 3600, "nobody gives up after 180 seconds here"
    assert server.max_request_s < settings["retry_settings"]["timeout"]
    assert settings["output_action"] == "summary_only", "the script writes the answers itself"
    assert settings["error_threshold"] == 0, "a job that lost a file has not succeeded"
