"""A batch from file to file, at a server that runs or one of its own."""

import asyncio
import os
import signal
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..client.endpoint import Endpoint, to_endpoint
from ..client.errors import ClientError
from ..client.readiness import served_model, wait_until_ready
from ..settings import load_settings
from .batch_input import judge_lines, parse_lines
from .batch_run import BatchRun
from .line_reader import LineReader
from .local_pictures import with_local_pictures
from .own_server import own_server
from .progress import BatchProgress
from .result_file import ResultFile
from .sender import RetryPolicy, Sender

# What a server runs at once unless it is told otherwise (--max-num-seqs).
_CONCURRENCY = 32


@dataclass(frozen=True)
class Outcome:
    """counts: for the user. signal: what ended it early, if anything did."""

    counts: str
    num_failed: int
    signal: signal.Signals | None


@dataclass(frozen=True)
class _Files:
    """Both files, open."""

    lines: BinaryIO
    is_file: bool  # a regular one, and no pipe
    folder: Path  # of the input
    results: ResultFile


def run_at(
    input_file: Path,
    output_file: Path,
    restart: bool,
    url: str,
    key: str | None,
    ca_file: Path | None,
    concurrency: int | None,
    timeout_s: float,
) -> Outcome:
    """At a server that runs. Raises ClientError where that cannot begin, or not go on."""
    endpoint = to_endpoint(url, key, ca_file)
    with _opened(input_file, output_file, restart) as (files, progress):
        served_model(endpoint)  # whether it is there, and the key is right
        wait_until_ready(endpoint, progress.say)
        return _run(files, progress, endpoint, concurrency or _CONCURRENCY, timeout_s)


def run_by_itself(
    input_file: Path,
    output_file: Path,
    restart: bool,
    model: str | None,
    config: Path | None,
    environ: Mapping[str, str],
    concurrency: int | None,
    timeout_s: float,
) -> Outcome:
    """At a server of its own. Raises ClientError as run_at, and SettingsError."""
    settings = load_settings({"model": model}, environ, config)
    room = settings.max_num_seqs * settings.data_parallel
    with (
        _opened(input_file, output_file, restart) as (files, progress),
        own_server(server_flags(model, config), environ, progress.say) as endpoint,
    ):
        return _run(files, progress, endpoint, concurrency or room, timeout_s)


def run_on_ray(
    input_location: str,
    output_location: str,
    restart: bool,
    given: Mapping[str, Any],
    config: Path | None,
    environ: Mapping[str, str],
    concurrency: int | None,
    timeout_s: float,
) -> Outcome:
    """At servers of its own on a cluster. given: settings, None for those that are not. Raises
    ClientError as run_at, and SettingsError."""
    settings = load_settings({**given, "cluster": "ray"}, environ, config)
    try:
        from ..ray.batch.whole_batch import run_on_cluster
    except ImportError as error:
        raise ClientError("--cluster ray needs pip install 'phi3v-server[ray]'") from error
    flags = server_flags(settings.model, config)
    return run_on_cluster(
        input_location, output_location, restart, settings, flags, environ, concurrency, timeout_s
    )


def server_flags(model: str | None, config: Path | None) -> list[str]:
    """Of a batch's own server, which may be started in any directory."""
    if model is not None and Path(model).is_dir():  # else a hub id
        model = str(Path(model).absolute())
    flags = [] if model is None else ["--model", model]
    return flags + ([] if config is None else ["--config", str(config.absolute())])


@contextmanager
def _opened(
    input_file: Path, output_file: Path, restart: bool
) -> Iterator[tuple[_Files, BatchProgress]]:
    try:
        lines = input_file.open("rb")
    except OSError as error:
        raise ClientError(f"{input_file} cannot be read: {error.strerror}") from error
    found = os.fstat(lines.fileno())
    is_file = stat.S_ISREG(found.st_mode)
    with lines if is_file else nullcontext():  # a pipe's close waits for its reader
        if output_file.exists() and os.path.samestat(found, output_file.stat()):
            raise ClientError(f"{output_file} is the input; answers need a file of their own")
        with (
            ResultFile(output_file, restart=restart) as results,
            BatchProgress(found.st_size if is_file else None) as progress,
        ):
            yield _Files(lines, is_file, input_file.parent, results), progress


def _run(
    files: _Files, progress: BatchProgress, endpoint: Endpoint, concurrency: int, timeout_s: float
) -> Outcome:
    async def run() -> signal.Signals | None:
        async with endpoint.async_client(timeout_s, concurrency + 1) as client:
            sender = Sender(
                client,
                endpoint.url,
                lambda request: with_local_pictures(request.body, files.folder),
                RetryPolicy(),
                progress.say,
            )
            lines = judge_lines(parse_lines(files.lines), files.results.answered)
            reader = LineReader(lines, is_file=files.is_file)
            batch = BatchRun(reader, sender, files.results, progress, concurrency)
            await batch.run()
            return batch.signal

    ended_by = asyncio.run(run())
    return Outcome(progress.counts, progress.num_failed, ended_by)
