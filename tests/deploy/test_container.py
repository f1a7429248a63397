"""The container without docker: the image's own entrypoint, environment and user, started and
probed as Azure ML does it, and told to go as it does that.

Where the tests run as root, what the image promises is enforced: an ordinary user, and every file
system read-only but for the cache folder and the one for temporary files.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import yaml
from azure.ai.inference import ChatCompletionsClient
from azure.ai.inference.models import ImageContentItem, ImageUrl, TextContentItem, UserMessage
from azure.core.credentials import AzureKeyCredential

from tests.http.pictures import data_url, plain_png
from tests.http.running_server import wait_until

from .dockerfile import PROJECT, last_stage

DEPLOYMENT = yaml.safe_load((PROJECT / "deployment.yml").read_text())
# Azure ML waits this long between a pod's SIGTERM and its end, as Kubernetes does.
GRACE_S = 30
# Everything becomes read-only but a new /mnt, in which the model is mounted and the cache lies. The
# user may read all, as an interpreter may lie in root's home here, and may do nothing else.
_CONTAIN = """
mount --make-rprivate /
mount -o remount,bind,ro /
mount -t tmpfs tmpfs /mnt
mkdir /mnt/model /mnt/cache /mnt/tmp
chown "$USER_ID" /mnt/cache /mnt/tmp
mount --bind "$MODEL" /mnt/model
mount -o remount,bind,ro /mnt/model
exec setpriv --reuid "$USER_ID" --regid "$USER_ID" --clear-groups --no-new-privs \
    --inh-caps +dac_read_search --ambient-caps +dac_read_search -- "$@"
"""


def can_contain() -> bool:
    if os.getuid() != 0 or not shutil.which("unshare") or not shutil.which("setpriv"):
        return False
    tried = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", "mount --make-rprivate /; mount -o remount,bind,ro /"],
        capture_output=True, check=False,
    )  # fmt: skip
    return tried.returncode == 0


@dataclass
class Container:
    process: "subprocess.Popen[bytes]"
    url: str
    log_file: Path
    probes: list[tuple[float, str, int]] = field(default_factory=list)

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def probe(self, kind: str) -> int:
        """One probe with the deployment's own patience; 0 where nobody answers."""
        path = {"liveness": "/health/live", "readiness": "/health/ready"}[kind]
        timeout = DEPLOYMENT[f"{kind}_probe"]["timeout"]
        start = time.monotonic()
        try:
            status = httpx.get(self.url + path, timeout=timeout).status_code
        except httpx.TransportError:
            status = 0
        self.probes.append((time.monotonic() - start, kind, status))
        return status

    def statuses(self, kind: str) -> list[int]:
        return [status for _, probed, status in self.probes if probed == kind]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture(scope="module")
def container(
    demo_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Container]:
    """Started, and probed until it is ready. The weights lie two levels below the mount."""
    folder = tmp_path_factory.mktemp("container")
    mount = folder / "model"
    shutil.copytree(demo_checkpoint, mount / "phi3v" / "1" / "data" / "model")
    for path in (mount, *mount.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    contained = can_contain()
    root = Path("/mnt") if contained else folder
    for name in ("cache", "tmp"):
        (folder / name).mkdir()
    stage, port = last_stage(), free_port()
    image = {
        name: value.replace("/var/cache/phi3v", str(root / "cache"))
        for name, value in stage.environment.items()
        if name != "PATH"
    }
    environ = {
        "PATH": f"{PROJECT / '.venv' / 'bin'}:/usr/bin:/bin",
        "HOME": "/nonexistent",
        **image,
        **DEPLOYMENT["environment_variables"],
        "AZUREML_MODEL_DIR": str(root / "model" / "phi3v" / "1"),
        "WORKER_COUNT": "1",
        # Not the image's and not Azure's: where this machine differs from a container.
        "PHI3V_DEVICE": "auto",
        "PHI3V_PORT": str(port),
        "TMPDIR": str(root / "tmp"),
        "OMP_NUM_THREADS": "1",
        "MODEL": str(mount),
        "USER_ID": stage.last("USER"),
    }
    command = stage.entrypoint
    if contained:
        command = ["unshare", "--mount", "sh", "-ec", _CONTAIN, "sh", *command]
    log_file = folder / "log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            command, env=environ, cwd="/", stdout=log, stderr=subprocess.STDOUT
        )
    container = Container(process, f"http://127.0.0.1:{port}", log_file)

    def is_ready() -> bool:
        assert process.poll() is None, container.log
        container.probe("liveness")
        return container.probe("readiness") == 200

    try:
        wait_until(is_ready, 120, "it is ready")
        yield container
    finally:
        process.kill()
        process.wait()
        for path in (mount, *mount.rglob("*")):
            path.chmod(0o755)


@pytest.fixture(scope="module")
def client(container: Container) -> Iterator[ChatCompletionsClient]:
    # The front end checks the key that clients send; the container does not.
    with ChatCompletionsClient(container.url, AzureKeyCredential("the front end's")) as client:
        yield client


def test_it_is_alive_while_it_loads_and_ready_only_then(container: Container) -> None:
    alive = container.statuses("liveness")
    alive = alive[next(i for i, status in enumerate(alive) if status) :]
    assert set(alive) == {200}, "from the first moment that it listens"
    ready = [status for status in container.statuses("readiness") if status]
    assert ready[0] == 503
    assert ready[-1] == 200
    assert ready == sorted(ready, reverse=True)


@pytest.mark.skipif(not can_contain(), reason="a file system is made read-only by root alone")
def test_it_is_an_ordinary_user_and_nothing_else_can_be_written(container: Container) -> None:
    status = Path(f"/proc/{container.process.pid}/status").read_text()
    assert re.search(rf"^Uid:\t{last_stage().last('USER')}\t", status, re.MULTILINE)
    mounts = Path(f"/proc/{container.process.pid}/mounts").read_text()
    assert re.search(r"^\S+ / \S+ ro,", mounts, re.MULTILINE)
    assert re.search(r"^\S+ /mnt/model \S+ ro,", mounts, re.MULTILINE)


def test_its_own_health_check_passes(container: Container) -> None:
    port = container.url.rpartition(":")[2]
    check = subprocess.run(
        last_stage().healthcheck,
        env={"PATH": f"{PROJECT / '.venv' / 'bin'}:/usr/bin:/bin", "PHI3V_PORT": port},
        capture_output=True, check=False,
    )  # fmt: skip
    assert check.returncode == 0, check.stderr


def test_the_sdk_is_answered_whole_streamed_and_about_a_picture(
    client: ChatCompletionsClient,
) -> None:
    assert client.get_model_info().model_name == "phi3v-demo"
    picture = ImageContentItem(image_url=ImageUrl(url=data_url(plain_png(80, 60))))
    messages = [UserMessage([TextContentItem(text="what is it?"), picture])]
    whole = client.complete(messages=messages, max_tokens=8, temperature=0)
    stream = client.complete(messages=messages, max_tokens=8, temperature=0, stream=True)
    text = "".join(update.choices[0].delta.content for update in stream)
    assert text == whole.choices[0].message.content


def test_az_invoke_is_answered(container: Container) -> None:
    """`az ml online-endpoint invoke` posts a file to the scoring route, as it stands."""
    turn = {"role": "user", "content": [{"type": "text", "text": "golden"}]}
    task = {"input_data": {"input_string": [turn], "parameters": {"max_new_tokens": 5}}}
    response = httpx.post(
        f"{container.url}/score",
        content=json.dumps(task),
        headers={"Content-Type": "application/json", "Authorization": "Bearer whatever"},
        timeout=60,
    )
    assert response.status_code == 200, response.text
    assert response.json()["output"]


def test_a_request_is_one_line_on_stdout_with_azures_ids(container: Container) -> None:
    ids = {"x-request-id": "8f1c2a1e-azure", "x-ms-client-request-id": "the-callers"}
    chat = {"messages": [{"role": "user", "content": "golden"}], "max_tokens": 1}
    url = f"{container.url}/chat/completions"
    assert httpx.post(url, json=chat, headers=ids, timeout=60).status_code == 200
    (line,) = wait_until(
        lambda: [x for x in container.log.splitlines() if "8f1c2a1e-azure" in x], 5, "it is logged"
    )
    entry = json.loads(line)
    assert (entry["status"], entry["client"]) == (200, "the-callers")
    assert entry["ms"] > 0
    assert "/health/" not in container.log


def test_probes_are_answered_in_time_while_it_is_full(
    container: Container, client: ChatCompletionsClient
) -> None:
    """Of the platform's own patience a part, as other tests may run beside this one."""
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            client.complete(messages=[UserMessage("golden")], max_tokens=200)

    callers = [threading.Thread(target=load) for _ in range(16)]
    for caller in callers:
        caller.start()
    container.probes.clear()
    for _ in range(10):
        assert container.probe("liveness") == 200
        assert container.probe("readiness") == 200
        time.sleep(0.2)
    stop.set()
    for caller in callers:
        caller.join()
    slowest = max(seconds for seconds, _, _ in container.probes)
    assert slowest < DEPLOYMENT["readiness_probe"]["timeout"] / 2


def test_told_to_go_it_finishes_what_runs_and_ends_well(
    container: Container, client: ChatCompletionsClient
) -> None:
    """The last test: there is no container afterwards."""
    messages = [UserMessage("golden")]
    solo = client.complete(messages=messages, max_tokens=400, temperature=0)
    stream = client.complete(messages=messages, max_tokens=400, temperature=0, stream=True)
    text = next(stream).choices[0].delta.content
    start = time.monotonic()
    container.process.send_signal(signal.SIGTERM)
    wait_until(lambda: container.probe("readiness") == 503, 5, "it is not ready any more")
    text += "".join(update.choices[0].delta.content for update in stream)
    assert text == solo.choices[0].message.content
    assert container.process.wait(GRACE_S) == 0, container.log
    assert time.monotonic() - start < GRACE_S
    assert "Traceback" not in container.log
