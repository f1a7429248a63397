"""https: a certificate and its key, and what cannot be used said at the start."""

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import trustme
from azure.ai.inference import ChatCompletionsClient
from azure.core.credentials import AzureKeyCredential
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from server.settings import Settings

from .conftest import KEY
from .running_server import RunningServer, ready_server, run_command, user


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def certificate(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with cert.pem, its chain and its key.pem."""
    directory = tmp_path_factory.mktemp("tls")
    issued = authority.create_child_ca().issue_cert("127.0.0.1")
    for pem in issued.cert_chain_pems:
        pem.write_to_path(str(directory / "cert.pem"), append=True)
    issued.private_key_pem.write_to_path(str(directory / "key.pem"))
    authority.cert_pem.write_to_path(str(directory / "authority.pem"))
    return directory


@pytest.fixture(scope="module")
def server(demo_checkpoint: Path, certificate: Path, logs: Path) -> Iterator[RunningServer]:
    flags = ["--tls-cert", str(certificate / "cert.pem"), "--tls-key", str(certificate / "key.pem")]
    with ready_server(logs / "tls.log", demo_checkpoint, *flags, api_key=KEY) as server:
        yield server


def trusting(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate / "authority.pem"))


def test_the_chain_is_shown_and_the_server_answers(
    server: RunningServer, certificate: Path
) -> None:
    assert server.base_url.startswith("https://")
    with httpx.Client(verify=trusting(certificate), headers={"api-key": KEY}) as client:
        assert client.get(f"{server.base_url}/info").status_code == 200
        assert client.get(f"{server.base_url}/info", headers={"api-key": "x"}).status_code == 401


def test_azures_client_streams_over_https(server: RunningServer, certificate: Path) -> None:
    with ChatCompletionsClient(
        server.base_url,
        AzureKeyCredential(KEY),
        connection_verify=str(certificate / "authority.pem"),
    ) as client:
        updates = list(client.complete(messages=[user("hi")], max_tokens=4, stream=True))
    assert updates[-1].choices[0].finish_reason == "length"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_versions_of_tls_are_refused(
    server: RunningServer, certificate: Path, version: ssl.TLSVersion
) -> None:
    context = trusting(certificate)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    address = urlsplit(server.base_url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:  # noqa: SIM117
        with pytest.raises(ssl.SSLError):
            context.wrap_socket(connection, server_hostname="127.0.0.1")


@pytest.mark.parametrize(
    "sent", [b"GET /info HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03", b"\0" * 99]
)
def test_what_is_no_tls_gets_no_answer(
    server: RunningServer, certificate: Path, sent: bytes
) -> None:
    address = urlsplit(server.base_url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        received = b""
        try:
            while piece := connection.recv(4096):
                received += piece
        except ConnectionResetError:
            pass
    assert b"HTTP" not in received
    with httpx.Client(verify=trusting(certificate)) as client:
        assert client.get(f"{server.base_url}/health/live").status_code == 200


def test_a_certificate_and_its_key_need_each_other() -> None:
    for name in ("tls_cert", "tls_key"):
        with pytest.raises(ValueError, match="tls_cert and tls_key"):
            Settings(**{name: "file.pem"})


@pytest.mark.parametrize("kind", ["missing", "no PEM", "another's", "encrypted"])
def test_what_cannot_be_used_is_told_at_the_start(
    authority: trustme.CA, certificate: Path, demo_checkpoint: Path, tmp_path: Path, kind: str
) -> None:
    key = tmp_path / "key.pem"
    pem = (certificate / "key.pem").read_bytes()
    if kind == "no PEM":
        key.write_text("hush")
    elif kind == "another's":
        authority.issue_cert("127.0.0.1").private_key_pem.write_to_path(str(key))
    elif kind == "encrypted":
        secret = load_pem_private_key(pem, None)
        encryption = BestAvailableEncryption(b"hush")
        key.write_bytes(secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    done = run_command(
        *("serve", "--model", str(demo_checkpoint), "--port", "0"),
        *("--tls-cert", str(certificate / "cert.pem"), "--tls-key", str(key)),
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "tls_key" in done.stderr
    assert "hush" not in done.stderr
