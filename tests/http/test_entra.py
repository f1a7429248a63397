"""Tokens of Microsoft Entra ID: real RS256 signatures, keys from a real socket."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from azure.ai.inference import ChatCompletionsClient
from azure.core.credentials import AccessToken
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import RSAAlgorithm

from server.entra import EntraTokens, SigningKeys
from server.settings import Settings

from .error_bodies import assert_error
from .event_streams import opened
from .parrot import Parrot, ParrotServer, parrot_server
from .raw_http import exchange
from .running_server import Endpoint, assert_well, user

TENANT = "0f1e2d3c-0000-4000-8000-00000000000a"
OTHER_TENANT = "0f1e2d3c-0000-4000-8000-00000000000b"
CLIENT = "0f1e2d3c-0000-4000-8000-00000000000c"
AUDIENCE = "api://phi"
KEY = "golden"


def new_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


FIRST, SECOND, STRANGER = new_key(), new_key(), new_key()


class KeyServer:
    """What serves a tenant's keys. keys: by id; status: what it answers with."""

    def __init__(self) -> None:
        self.keys = {"first": FIRST}
        self.status, self.body = 200, b""
        self.num_requests = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.num_requests += 1
                body = outer.body or json.dumps({"keys": outer.public()}).encode()
                self.send_response(outer.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Nobody reads it."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/keys"

    def public(self) -> list[dict[str, Any]]:
        keys = [
            {**RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig"}
            for kid, key in self.keys.items()
        ]
        return [*keys, {"kty": "EC", "kid": "of no use here"}]

    @contextmanager
    def serving(self) -> Iterator["KeyServer"]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()


class Clock:
    """Stands still until it is turned."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def key_server() -> Iterator[KeyServer]:
    with KeyServer().serving() as server:
        yield server


@contextmanager
def guarded(
    checkpoint: Path,
    key_server: KeyServer,
    *,
    roles: tuple[str, ...] = ("Chat", "chat.read"),
    clients: tuple[str, ...] = (),
    clock: Clock | None = None,
) -> Iterator[ParrotServer]:
    """A server that takes the tenant's tokens, and one key besides."""
    keys = SigningKeys(key_server.url, clock or Clock())
    tokens = EntraTokens(TENANT, (AUDIENCE, CLIENT), roles, clients, keys)
    settings = {
        "entra_tenant": TENANT,
        "entra_audiences": (AUDIENCE, CLIENT),
        "entra_roles": roles,
        "entra_clients": clients,
    }
    with parrot_server(
        checkpoint, Parrot(checkpoint), api_key=KEY, tokens=tokens, **settings
    ) as server:
        yield server


@pytest.fixture
def server(demo_checkpoint: Path, key_server: KeyServer) -> Iterator[ParrotServer]:
    with guarded(demo_checkpoint, key_server) as server:
        yield server


def claims(**changed: Any) -> dict[str, Any]:
    """An application's, in version 2. None leaves a claim out; times are seconds from now."""
    now = int(time.time())
    for name in ("iat", "nbf", "exp"):
        if isinstance(changed.get(name), int):
            changed[name] += now
    given = {
        "aud": AUDIENCE,
        "iss": f"https://login.microsoftonline.com/{TENANT}/v2.0",
        "iat": now - 10,
        "nbf": now - 10,
        "exp": now + 3600,
        "tid": TENANT,
        "azp": CLIENT,
        "oid": "an object",
        "sub": "a subject",
        "roles": ["Chat"],
        "ver": "2.0",
    } | changed
    return {name: value for name, value in given.items() if value is not None}


def token(
    key: Any = FIRST,
    kid: str | None = "first",
    header: dict[str, Any] | None = None,
    **changed: Any,
) -> str:
    headers = {"kid": kid} if kid else {}
    return jwt.encode(claims(**changed), key, "RS256", headers | (header or {}))


def get(server: Endpoint, bearer: str, path: str = "/info") -> httpx.Response:
    with httpx.Client(base_url=server.base_url, verify=False, timeout=20) as client:
        return client.get(path, headers={"Authorization": f"Bearer {bearer}"})


def assert_refused(response: httpx.Response) -> None:
    assert_error(response, 401, "unauthorized")
    challenge = response.headers["www-authenticate"]
    assert challenge.startswith(
        f'Bearer authorization_uri="https://login.microsoftonline.com/{TENANT}"'
    )
    assert 'error="invalid_token"' in challenge


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"aud": CLIENT},
        {"aud": ["api://another", AUDIENCE]},
        {"roles": None, "scp": "chat.read profile"},
        {"roles": ["Else", "Chat"]},
        {"iss": f"https://sts.windows.net/{TENANT}/", "azp": None, "appid": CLIENT, "ver": "1.0"},
        {"exp": -30},  # clocks differ
        {"nbf": 30, "iat": 30},
    ],
    ids=str,
)
def test_a_tenants_token_lets_in(server: ParrotServer, changed: dict[str, Any]) -> None:
    assert get(server, token(**changed)).status_code == 200
    assert_well(server)


def test_keys_and_tokens_are_taken_side_by_side(server: ParrotServer) -> None:
    assert server.get("/info").status_code == 200
    headers = {"Authorization": f"Bearer {token()}", "api-key": "wrong"}
    with httpx.Client(base_url=server.base_url, verify=False, timeout=20) as client:
        assert client.get("/info", headers=headers).status_code == 200
        headers = {"Authorization": "Bearer a.b.c", "api-key": KEY}
        assert client.get("/info", headers=headers).status_code == 200
        # A token is no key.
        assert client.get("/info", headers={"api-key": token()}).status_code == 401


def public_pem() -> bytes:
    return FIRST.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def unsigned(alg: str, signature: str = "") -> str:
    def part(value: Any) -> str:
        return jwt.utils.base64url_encode(json.dumps(value).encode()).decode()

    return f"{part({'alg': alg, 'kid': 'first', 'typ': 'JWT'})}.{part(claims())}.{signature}"


def signed_with_the_public_key() -> str:
    """The classic: a public key is no secret, so it must not serve as one."""
    import hashlib
    import hmac

    body = unsigned("HS256").rstrip(".")
    digest = hmac.new(public_pem(), body.encode(), hashlib.sha256).digest()
    return f"{body}.{jwt.utils.base64url_encode(digest).decode()}"


def tampered() -> str:
    head, _, signature = token().split(".")
    body = jwt.utils.base64url_encode(json.dumps(claims(oid="someone else")).encode()).decode()
    return f"{head}.{body}.{signature}"


BAD = {
    "alg none": lambda: unsigned("none"),
    "alg None": lambda: unsigned("None"),
    "HS256 with the public key": signed_with_the_public_key,
    "RS512": lambda: jwt.encode(claims(), FIRST, "RS512", {"kid": "first"}),
    "PS256": lambda: jwt.encode(claims(), FIRST, "PS256", {"kid": "first"}),
    "a stranger's key": lambda: token(STRANGER),
    "an unknown key": lambda: token(STRANGER, "stranger"),
    "no key id": lambda: token(kid=None),
    "a key of another kind": lambda: token(kid="of no use here"),
    "unknown crit": lambda: token(header={"crit": ["exp2"], "exp2": 1}),
    "Graph's nonce": lambda: token(header={"nonce": "x"}),
    "tampered": tampered,
    "cut": lambda: token()[:-4],
    "expired": lambda: token(exp=-300),
    "not yet": lambda: token(nbf=3000),
    "issued in the future": lambda: token(iat=3000),
    "no exp": lambda: token(exp=None),
    "no nbf": lambda: token(nbf=None),
    "no iat": lambda: token(iat=None),
    "no iss": lambda: token(iss=None),
    "no aud": lambda: token(aud=None),
    "no tid": lambda: token(tid=None),
    "exp is no number": lambda: token(exp="soon"),
    "exp is infinite": lambda: token(exp=float("inf")),
    "another audience": lambda: token(aud="https://graph.microsoft.com"),
    "an audience that begins alike": lambda: token(aud=AUDIENCE + "-3"),
    "another issuer": lambda: token(iss="https://evil.com/"),
    "another tenant's issuer": lambda: token(
        iss=f"https://login.microsoftonline.com/{OTHER_TENANT}/v2.0"
    ),
    "another tenant": lambda: token(tid=OTHER_TENANT),
    "another tenant altogether": lambda: token(
        tid=OTHER_TENANT, iss=f"https://login.microsoftonline.com/{OTHER_TENANT}/v2.0"
    ),
    "an ID token": lambda: token(azp=None, roles=None, nonce="x", aud=CLIENT),
    "three dots of nothing": lambda: "..",
    "no JSON": lambda: "YWJj.YWJj.YWJj",
    "deep": lambda: jwt.utils.base64url_encode(b'{"a":' + b"[" * 9000).decode() + ".e30.YWJj",
}


@pytest.mark.parametrize("kind", BAD)
def test_no_other_token_does(server: ParrotServer, kind: str) -> None:
    assert_refused(get(server, BAD[kind]()))
    assert_well(server)


def test_a_megabyte_of_token_is_refused(server: ParrotServer) -> None:
    sent = (
        f"GET /info HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token(pad='x' * 700_000)}"
    )
    received = exchange(server, f"{sent}\r\nConnection: close\r\n\r\n".encode())
    assert received == b"" or received.startswith(b"HTTP/1.1 4")  # the server may hang up first
    assert_well(server)


def test_what_a_token_says_of_its_keys_is_not_followed(
    server: ParrotServer, key_server: KeyServer
) -> None:
    with KeyServer().serving() as evil:
        evil.keys = {"first": STRANGER, "evil": STRANGER}
        for name in ("jku", "x5u"):
            for kid in ("first", "evil"):
                assert_refused(get(server, token(STRANGER, kid, {name: evil.url})))
        jwk = RSAAlgorithm.to_jwk(STRANGER.public_key(), as_dict=True)
        assert_refused(get(server, token(STRANGER, "first", {"jwk": jwk})))
        assert evil.num_requests == 0


@pytest.mark.parametrize(
    ("roles", "clients", "changed", "status"),
    [
        (("Chat",), (), {"roles": ["Else"]}, 403),
        (("Chat",), (), {"roles": None}, 403),
        (("Chat",), (), {"roles": "Chat"}, 403),
        (("Chat",), (), {"roles": None, "scp": "Chatter"}, 403),
        (("Chat",), (), {"roles": [["Chat"]], "scp": 5}, 403),
        ((), (CLIENT,), {"roles": None}, 200),
        ((), (CLIENT,), {"azp": OTHER_TENANT}, 403),
        ((), (CLIENT,), {"azp": None, "appid": OTHER_TENANT}, 403),
        (("Chat",), (CLIENT,), {}, 200),
        (("Chat",), (CLIENT,), {"roles": None}, 403),
        (("Chat",), (CLIENT,), {"azp": OTHER_TENANT}, 403),
    ],
)
def test_a_genuine_token_must_hold_what_is_asked_for(
    demo_checkpoint: Path,
    key_server: KeyServer,
    roles: tuple[str, ...],
    clients: tuple[str, ...],
    changed: dict[str, Any],
    status: int,
) -> None:
    with guarded(demo_checkpoint, key_server, roles=roles, clients=clients) as server:
        response = get(server, token(**changed))
        assert response.status_code == status
        if status == 403:
            assert_error(response, 403, "forbidden")


# Keys that change


def test_a_new_key_is_found_and_an_old_one_refused(
    demo_checkpoint: Path, key_server: KeyServer
) -> None:
    clock = Clock()
    with guarded(demo_checkpoint, key_server, clock=clock) as server:
        assert get(server, token()).status_code == 200
        key_server.keys = {"second": SECOND}
        clock.now += 61
        assert get(server, token(SECOND, "second")).status_code == 200
        assert key_server.num_requests == 2
        assert_refused(get(server, token()))


def test_keys_are_fetched_once_for_many(server: ParrotServer, key_server: KeyServer) -> None:
    with ThreadPoolExecutor(8) as threads:
        responses = list(threads.map(lambda _: get(server, token()), range(32)))
    assert {response.status_code for response in responses} == {200}
    assert key_server.num_requests == 1


def test_made_up_key_ids_fetch_keys_once_a_minute(
    demo_checkpoint: Path, key_server: KeyServer
) -> None:
    clock = Clock()
    with guarded(demo_checkpoint, key_server, clock=clock) as server:
        for minute in range(3):
            for number in range(10):
                assert_refused(get(server, token(STRANGER, f"{minute}-{number}")))
            clock.now += 61
        assert key_server.num_requests == 3
        # Nor do tokens that could not be valid with any key.
        get(server, unsigned("none").replace("first", "unheard-of"))
        assert key_server.num_requests == 3


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b""),
        (200, b"{"),
        (200, b"[]"),
        (200, b'{"keys": []}'),
        (200, b'{"keys": [{"kty": "RSA", "kid": "first"}]}'),
        (200, b" " * (2 << 20)),
        (302, b""),
    ],
)
def test_the_last_good_keys_stay(
    demo_checkpoint: Path, key_server: KeyServer, status: int, body: bytes
) -> None:
    clock = Clock()
    with guarded(demo_checkpoint, key_server, clock=clock) as server:
        assert get(server, token()).status_code == 200
        key_server.status, key_server.body = status, body
        clock.now += 25 * 3600  # they are old, and new ones cannot be had
        assert get(server, token()).status_code == 200
        assert_refused(get(server, token(SECOND, "second")))
        assert key_server.num_requests == 2
        key_server.status, key_server.body = 200, b""
        key_server.keys = {"second": SECOND}
        clock.now += 61
        assert get(server, token(SECOND, "second")).status_code == 200


def test_without_any_keys_a_caller_is_asked_to_come_back(
    demo_checkpoint: Path, key_server: KeyServer
) -> None:
    """It may well hold a good token: 401 would make it throw that away."""
    clock = Clock()
    key_server.status = 500
    with guarded(demo_checkpoint, key_server, clock=clock) as server:
        for _ in range(5):
            assert_error(get(server, token()), 503, "not_ready")
        assert key_server.num_requests == 1
        assert server.get("/info").status_code == 200  # keys go on to work
        key_server.status = 200
        clock.now += 6
        assert get(server, token()).status_code == 200


# Whose token, and until when


def test_tokens_that_begin_alike_are_told_apart(server: ParrotServer) -> None:
    """A verdict must not be kept under a part of a token: all begin with the same header."""
    good = token()
    bad = token(STRANGER)
    assert good[:200] == bad[:200]
    for _ in range(2):
        assert get(server, good).status_code == 200
        assert_refused(get(server, bad))


def test_a_token_that_expires_ends_no_stream_but_is_refused_next(
    demo_checkpoint: Path, key_server: KeyServer
) -> None:
    with guarded(demo_checkpoint, key_server) as server:
        server.parrot.step_s = 0.05
        # The leeway is a minute: two seconds are left.
        short = token(exp=-58)
        caller = Bearing(server.base_url, short)
        text = "Long enough to outlive a token. " * 2
        with opened(caller, text) as stream:
            stream.take(1)
            stream.take_rest()
            assert stream.text == text
        assert_refused(get(server, short))


class Bearing(Endpoint):
    """A caller with a token."""

    def client(self, **options: Any) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.api_key}"}
        return super().client(**{"headers": headers, **options})


def test_callers_are_told_apart_by_who_they_are(
    demo_checkpoint: Path, key_server: KeyServer
) -> None:
    """Not by their tokens, of which they can have as many as they like."""
    tokens = EntraTokens(TENANT, (AUDIENCE,), ("Chat",), (), SigningKeys(key_server.url))
    settings: dict[str, Any] = {
        "entra_tenant": TENANT,
        "entra_audiences": (AUDIENCE,),
        "entra_roles": ("Chat",),
        "requests_per_minute": 2,
    }
    with parrot_server(
        demo_checkpoint, Parrot(demo_checkpoint), api_key=KEY, tokens=tokens, **settings
    ) as server:
        one = [Bearing(server.base_url, token(jti=str(number))) for number in range(3)]
        assert [caller.ask("hi").status_code for caller in one] == [200, 200, 429]
        other = Bearing(server.base_url, token(oid="another object"))
        assert other.ask("hi").status_code == 200


def test_azures_client_comes_with_a_token(server: ParrotServer) -> None:
    class Credential:
        def get_token(self, *scopes: str, **_: Any) -> AccessToken:
            return AccessToken(token(), int(time.time()) + 3600)

    with ChatCompletionsClient(server.base_url, Credential()) as client:
        # The client refuses to send a token over plain HTTP unless each call says otherwise.
        answer = client.complete(messages=[user("hello")], enforce_https=False)
    assert answer.choices[0].message.content == "hello"


def test_why_a_token_was_refused_is_in_the_log_only(
    server: ParrotServer, caplog: pytest.LogCaptureFixture
) -> None:
    refused = token(aud="https://graph.microsoft.com")
    response = get(server, refused)
    assert "InvalidAudienceError" in caplog.text
    assert "udience" not in response.text
    for _ in range(50):
        get(server, refused)
    assert caplog.text.count("a token was refused") < 10  # no flood
    assert refused not in caplog.text


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"entra_tenant": TENANT}, "entra_audiences"),
        ({"entra_tenant": TENANT, "entra_audiences": AUDIENCE}, "entra_roles or entra_clients"),
        ({"entra_audiences": AUDIENCE}, "need entra_tenant"),
        ({"entra_roles": "Chat"}, "need entra_tenant"),
        ({"entra_tenant": "common", "entra_audiences": AUDIENCE}, "entra_tenant"),
        ({"entra_tenant": "organizations", "entra_audiences": AUDIENCE}, "entra_tenant"),
        ({"entra_tenant": "contoso.com", "entra_audiences": AUDIENCE}, "entra_tenant"),
    ],
)
def test_half_a_configuration_is_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Settings(**settings)


def test_tokens_are_enough_to_listen_anywhere() -> None:
    settings: dict[str, Any] = {
        "entra_tenant": TENANT,
        "entra_audiences": f"{AUDIENCE}, {CLIENT}",
        "entra_roles": ["Chat"],
    }
    assert Settings(host="0.0.0.0", **settings).entra_audiences == (AUDIENCE, CLIENT)
    with pytest.raises(ValueError, match="no_auth"):
        Settings(no_auth=True, **settings)
