"""`phi3v serve --cluster ray`: start or join a cluster, serve on it until a signal."""

import logging
import signal
import socket
import threading
import time
from types import FrameType

from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ApplicationStatus

from scoring.errors import CheckpointError

from ..listening import check_port
from ..settings import Settings, SettingsError
from .application import to_application
from .connection import connection

logger = logging.getLogger("phi3v")

APPLICATION = "phi3v"
_POLL_S = 0.5
_LOST = (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY)
# For replicas to go when what they ran is over.
_LEAVE_S = 30.0


def run(settings: Settings) -> None:
    """Serve until a signal, then let running requests finish, max_request_s at the most, or until
    another signal. A cluster that was started here ends with it; one that was joined loses the
    application only, and goes on listening.

    Raises SettingsError for what a cluster cannot do, for an address that is taken and for a
    cluster that has the application already, and CheckpointError when no engine could be built.
    """
    if settings.tls_cert is not None:
        raise SettingsError("tls_cert: in a cluster, TLS ends at the load balancer before it")
    own = None if settings.ray_address else _own_address(settings)
    signals = _Signals()
    with connection(settings):
        signals.listen()
        host, port = own or _joined_address(settings)
        serve.start(
            proxy_location="HeadOnly" if own else "EveryNode",
            http_options={"host": host, "port": port},
        )
        target = serve.RunTarget(to_application(settings), name=APPLICATION, route_prefix="/")
        serve.run_many([target], wait_for_applications_running=False)
        try:
            logger.info("listening on http://%s:%d, on Ray", host, port)
            _watch(signals)
        finally:
            _leave(signals, settings.max_request_s + _LEAVE_S)
        if own and not signals.second.is_set():
            serve.shutdown()


class _Signals:
    """The first asks for an end, the second for one at once."""

    def __init__(self) -> None:
        self.first, self.second = threading.Event(), threading.Event()

    def listen(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, _: int, __: FrameType | None) -> None:
        (self.second if self.first.is_set() else self.first).set()


def _watch(signals: _Signals) -> None:
    """Until a signal, or until somebody else has deleted the application. Raises CheckpointError
    where there is nothing to wait for."""
    has_run = False
    while not signals.first.wait(_POLL_S):
        status = serve.status().applications.get(APPLICATION)
        if status is None:
            logger.warning("the application was deleted: going down")
            return
        if status.status is ApplicationStatus.RUNNING and not has_run:
            has_run = True
            logger.info("all replicas are ready")
        if status.status in _LOST and not has_run:
            raise CheckpointError(f"the cluster cannot serve: {status.message}")


def _leave(signals: _Signals, patience_s: float) -> None:
    """End the application. Ray's own waiting for that ends after a minute."""
    serve.delete(APPLICATION, _blocking=False)
    deadline = time.monotonic() + patience_s
    while APPLICATION in serve.status().applications and time.monotonic() < deadline:
        if signals.second.wait(_POLL_S):
            return


def _own_address(settings: Settings) -> tuple[str, int]:
    """Where a cluster of our own will listen."""
    port = settings.port or _free_port(settings.host)
    check_port(settings.host, port)
    return settings.host, port


def _joined_address(settings: Settings) -> tuple[str, int]:
    """Where the cluster listens, or will. Serve, once started on a cluster, stays there."""
    client = _get_global_client(raise_if_no_controller_running=False)
    if client is None:
        return _own_address(settings)
    if APPLICATION in serve.status().applications:
        # To deploy is to replace it, and to leave would be its end.
        raise SettingsError(
            f"ray_address is {settings.ray_address!r}: the application {APPLICATION!r} is on this "
            "cluster already; change it with `serve deploy`, or stop what started it"
        )
    host, port = client.http_config.host, client.http_config.port
    if settings.host != host or settings.port not in (0, port):
        raise SettingsError(
            f"host and port are {settings.host} and {settings.port}: Serve runs on this cluster "
            f"already, at {host}:{port}; serve there, or end it with `serve shutdown`"
        )
    return host, port


def _free_port(host: str) -> int:
    with socket.socket() as trial:
        trial.bind((host, 0))
        return int(trial.getsockname()[1])
