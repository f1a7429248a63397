"""`python -m server.batch.leashed_server …` is `phi3v …` for as long as its stdin is open: a server
that ends with whoever started it, even one who was killed."""

import os
import signal
import threading

from ..cli import app


def _end_with_stdin() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    app()
