"""The page as it comes over HTTP: to browsers and to nobody else, with nothing from elsewhere."""

import re
from pathlib import Path

import pytest

from ..http.conftest import KEY
from ..http.parrot import Parrot, ParrotServer, parrot_server
from ..http.running_server import RunningServer

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
FILES = sorted(p.name for p in Path("server/playground").iterdir() if p.name != "index.html")


def test_a_browser_at_the_root_is_sent_to_the_page(parrot: ParrotServer) -> None:
    response = parrot.request("GET", "/", headers={"Accept": BROWSER})
    assert response.status_code == 307
    assert response.headers["location"] == "playground"


@pytest.mark.parametrize("accept", ["*/*", "text/plain", "application/json", ""])
def test_a_probe_at_the_root_hears_healthy(parrot: ParrotServer, accept: str) -> None:
    response = parrot.request("GET", "/", headers={"Accept": accept})
    assert (response.status_code, response.text) == (200, "Healthy")


@pytest.mark.parametrize("path", ["/playground", *(f"/playground/{name}" for name in FILES)])
def test_every_file_forbids_what_is_not_its_own(parrot: ParrotServer, path: str) -> None:
    response = parrot.get(path)
    assert response.status_code == 200
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self';")
    assert "unsafe" not in policy
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", ["index.html", *(n for n in FILES if not n.endswith(".png"))])
def test_no_file_names_another_site(name: str) -> None:
    text = Path("server/playground", name).read_text()
    urls = set(re.findall(r"(?:https?:)?//[\w.-]+\.[a-z]+", text))
    assert urls <= {"http://www.w3.org"}  # a namespace, of which nothing is fetched


def test_there_is_no_other_file(parrot: ParrotServer) -> None:
    for name in ("index.html", "missing.js", "..%2Fauth.py", "%2e%2e/auth.py"):
        assert parrot.get(f"/playground/{name}").status_code == 404


def test_the_page_needs_no_key_but_the_model_does(demo_checkpoint: Path) -> None:
    with parrot_server(demo_checkpoint, Parrot(demo_checkpoint), api_key=KEY) as server:
        with server.client(headers={}) as nobody:
            assert nobody.get("/playground").status_code == 200
            assert nobody.get("/playground/main.js").status_code == 200
            assert nobody.get("/playground/model").status_code == 401
        model = server.get("/playground/model").json()
        assert model["model_name"] == server.get("/info").json()["model_name"]
    assert model["context_length"] == 1024


def test_it_can_be_left_out(demo_checkpoint: Path) -> None:
    with parrot_server(demo_checkpoint, Parrot(demo_checkpoint), playground=False) as server:
        assert server.get("/playground").status_code == 404
        assert server.get("/playground/main.js").status_code == 404
        assert server.request("GET", "/", headers={"Accept": BROWSER}).text == "Healthy"


def test_info_and_page_say_that_it_is_a_demo(demo: RunningServer) -> None:
    info, model = demo.get("/info").json(), demo.get("/playground/model").json()
    assert info["notice"].startswith("DEMO: ")
    assert model["notice"] == info["notice"]
