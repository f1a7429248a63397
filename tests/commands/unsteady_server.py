"""A server that fails as it is told before it answers: what no server of ours does at will."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_ANSWER = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "at last"}}]}
# What to do with a question, given its text and which try it is, from 1: a status, None to hang up.
Conduct = Callable[[str, int], int | None]


class UnsteadyServer(ThreadingHTTPServer):
    """tries: how often each question came, by its text."""

    daemon_threads = True

    def __init__(self, conduct: Conduct, headers: dict[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.conduct = conduct
        self.headers = headers
        self.tries: dict[str, int] = {}
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: Any) -> None:
        """A client that is gone is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: UnsteadyServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        known = {"/v1/models": {"data": [{"id": "unsteady"}]}, "/health/live": {}}
        self._answer(200 if self.path in known else 404, known.get(self.path, {}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        text = body["messages"][-1]["content"]
        self.server.tries[text] = self.server.tries.get(text, 0) + 1
        status = self.server.conduct(text, self.server.tries[text])
        if status is None:
            self.close_connection = True
        else:
            self._answer(status, _ANSWER if status == 200 else {"error": {"message": "not now"}})

    def _answer(self, status: int, body: Any) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        for name, value in self.server.headers.items() if status != 200 else ():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Silent."""


@contextmanager
def unsteady_server(conduct: Conduct, **headers: str) -> Iterator[UnsteadyServer]:
    """headers: of every answer but 200, with _ for -."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with UnsteadyServer(conduct, named) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
