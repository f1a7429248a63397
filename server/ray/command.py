"""`phi3v serve --cluster ray`: start or join a cluster, serve on it until a signal."""

import logging
import signal
import socket
import threading
from types import FrameType

from ray import serve
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


def run(settings: Settings) -> None:
    """Serve until a signal, then let running requests finish. A cluster that was started here ends
    with it; one that was joined loses the application only.

    Raises SettingsError for what a cluster cannot do and for an address that is taken, and
    CheckpointError when no engine could be built.
    """
    if settings.tls_cert is not None:
        raise SettingsError("tls_cert: in a cluster, TLS ends at the load balancer before it")
    port = settings.port or _free_port(settings.host)
    check_port(settings.host, port)
    stopping = threading.Event()

    def stop(_: int, __: FrameType | None) -> None:
        stopping.set()

    with connection(settings):
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        try:
            serve.start(
                proxy_location="EveryNode" if settings.ray_address else "HeadOnly",
                http_options={"host": settings.host, "port": port},
            )
            target = serve.RunTarget(to_application(settings), name=APPLICATION, route_prefix="/")
            serve.run_many([target], wait_for_applications_running=False)
            logger.info("listening on http://%s:%d, on Ray", settings.host, port)
            _watch(stopping)
            serve.delete(APPLICATION)  # waits for what is running
        finally:
            if settings.ray_address is None:
                serve.shutdown()


def _watch(stopping: threading.Event) -> None:
    """Until a signal. Raises CheckpointError where there is nothing to wait for."""
    has_run = False
    while not stopping.wait(_POLL_S):
        status = serve.status().applications[APPLICATION]
        if status.status is ApplicationStatus.RUNNING and not has_run:
            has_run = True
            logger.info("all replicas are ready")
        if status.status in _LOST and not has_run:
            raise CheckpointError(f"the cluster cannot serve: {status.message}")


def _free_port(host: str) -> int:
    with socket.socket() as trial:
        trial.bind((host, 0))
        return int(trial.getsockname()[1])
