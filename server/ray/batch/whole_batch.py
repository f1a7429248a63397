"""A batch from files to files, over a cluster."""

import logging
import signal
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from signal import Signals
from types import FrameType
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext, from_items
from ray.exceptions import RayError

from ...batch.progress import BatchProgress
from ...batch.whole_batch import Outcome
from ...client.errors import ClientError
from ...settings import Settings
from ..connection import connection
from ..engine_resources import engine_resources
from .attempts import Attempts
from .blocks import find_blocks
from .parts import Parts
from .source import Source
from .work import Work
from .worker import Worker, WorkerOptions

# Descriptions that travel together, at the most: a task of Ray's for each block of lines would keep
# its scheduler busy in a batch of millions.
_TASKS = 4096


def run_on_cluster(
    input_location: str,
    output_location: str,
    restart: bool,
    settings: Settings,
    flags: list[str],
    environ: Mapping[str, str],
    concurrency: int | None,
    timeout_s: float,
) -> Outcome:
    """flags: of each worker's server, beside those that are the cluster's. concurrency: lines of a
    worker in flight. Raises ClientError where it cannot begin, or not go on, and SettingsError as
    connection."""
    source = Source(input_location)
    files = source.find(output_location)
    parts = Parts(output_location)
    concurrency = concurrency or settings.max_num_seqs
    progress = BatchProgress(None)  # of nothing: a signal may come before the input is read
    # Until there is a cluster, the output stays as it is. Ray's own handlers of signals come before
    # ours.
    with connection(settings, log_to_driver=False), _stopped_by_signals() as stopped:
        work = _unanswered(source, files, parts, restart=restart)
        options = WorkerOptions(
            source=source,
            output=parts,
            flags=["--cluster", "none", *flags],
            variables={name: value for name, value in environ.items() if name.startswith("PHI3V_")},
            blocks_at_once=work.blocks_at_once(concurrency),
            concurrency=concurrency,
            timeout_s=timeout_s,
        )
        with BatchProgress(work.num_bytes) as progress:
            progress.skipped(0, work.num_answered)
            try:
                for row in _rows(work.blocks, options, settings):
                    if row["error"]:
                        raise ClientError(row["error"])
                    progress.done(row["num_bytes"], row["num_answered"], row["num_failed"])
            except RayError as error:
                why = str(error).partition("\n")[0]
                raise ClientError(f"the cluster cannot go on: {why}") from error
    return Outcome(progress.counts, progress.num_failed, stopped.signal)


def _unanswered(source: Source, files: list[str], parts: Parts, *, restart: bool) -> Work:
    work = Work()
    with closing(parts.open(restart=restart)) as answered:
        for block in find_blocks(source, files, answered):
            work.add(block)
    return work


def _rows(
    blocks: list[str], options: WorkerOptions, settings: Settings
) -> Iterator[dict[str, Any]]:
    if not blocks:
        return
    context = DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    attempts = (
        ray.remote(Attempts).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
    )
    resources = engine_resources(settings)
    dataset = from_items(blocks, override_num_blocks=min(len(blocks), _TASKS))
    yield from dataset.map_batches(
        Worker,
        fn_constructor_args=(options, attempts),
        batch_size=1,
        compute=ActorPoolStrategy(
            min_size=settings.replicas,
            max_size=settings.max_replicas or settings.replicas,
            max_concurrent_calls_per_actor=options.blocks_at_once,
            enable_true_multi_threading=True,
        ),
        num_cpus=resources["num_cpus"],
        num_gpus=resources["num_gpus"],
    ).iter_rows()


class _StoppedError(BaseException):
    """A signal came."""


class _Stopped:
    signal: Signals | None = None


@contextmanager
def _stopped_by_signals() -> Iterator[_Stopped]:
    """Leaves the block at a signal. What is in flight is abandoned: its blocks are asked again by
    the next run."""
    stopped = _Stopped()

    def stop(number: int, _: FrameType | None) -> None:
        stopped.signal = Signals(number)
        raise _StoppedError

    earlier = {n: signal.signal(n, stop) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    except _StoppedError:
        pass
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
