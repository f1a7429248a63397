"""A hub on loopback with one repository: as much of the real one's API as a download asks for."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HUB_ID = "acme/tiny-vision"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CODE = {
    "modeling_phi3_v.py": b"raise SystemExit('this must never run')\n",
    "notes.md": b"# Hello\n",
}


class HubStandIn:
    """Serves a checkpoint's files, and some that must not be fetched, at COMMIT.

    requests: every method and path so far. failing: the status of every answer, if not None;
    cut_short: files of which only the first half is sent, then the connection ends.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.files = {file.name: file.read_bytes() for file in checkpoint.iterdir()} | CODE
        self.requests: list[tuple[str, str]] = []
        self.failing: int | None = None
        self.cut_short: set[str] = set()
        self.url = ""

    def fetched(self) -> set[str]:
        """The names of the files that were asked for."""
        return {path.rsplit("/", 1)[1] for _, path in self.requests if "/resolve/" in path}

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body."""
        if self.failing is not None:
            return self.failing, {}, b'{"error": "the hub is unwell"}'
        prefix, _, name = path.partition("?")[0].rpartition("/")
        if prefix == f"/{HUB_ID}/resolve/{COMMIT}" and name in self.files:
            body = self.files[name]
            etag = hashlib.sha256(body).hexdigest()
            return 200, {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'}, body
        if path.startswith(
            (f"/api/models/{HUB_ID}/tree/{COMMIT}", f"/api/models/{HUB_ID}/revision")
        ):
            entries = [
                {"type": "file", "path": name, "size": len(body), "oid": "0" * 40}
                for name, body in self.files.items()
            ]
            return 200, {"Content-Type": "application/json"}, json.dumps(entries).encode()
        return 404, {"X-Error-Code": "RepoNotFound"}, b'{"error": "Repository not found"}'


@contextmanager
def running_hub(checkpoint: Path) -> Iterator[HubStandIn]:
    hub = HubStandIn(checkpoint)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            hub.requests.append((self.command, self.path))
            status, headers, body = hub.answer(self.path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "HEAD":
                return
            if self.path.rsplit("/", 1)[1] in hub.cut_short:
                self.wfile.write(body[: len(body) // 2])
                self.close_connection = True
            else:
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
