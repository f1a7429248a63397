"""An actor that keeps a server, and gets blocks of lines answered by it."""

import asyncio
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NoReturn

import httpx
import ray
from ray.util import get_node_ip_address

from ...batch.lines import BadLine, BatchRequest
from ...batch.local_pictures import with_pictures
from ...batch.own_server import own_server
from ...batch.results import BatchResult, error_of
from ...batch.sender import RetryPolicy, Sender
from ...client.endpoint import Endpoint
from ...client.errors import ClientError, NoServerError
from .attempts import MAX_DEATHS
from .blocks import Block
from .parquet_rows import ParquetRows
from .parts import Parts
from .room import Room
from .source import Source

_DIED = "the worker or its server died each time that this line was with it alone"


@dataclass(frozen=True)
class WorkerOptions:
    """flags, variables: of its server. concurrency: lines in flight, of all its blocks."""

    source: Source
    output: Parts
    flags: list[str]
    variables: dict[str, str]
    blocks_at_once: int
    concurrency: int
    timeout_s: float


class Worker:
    """What Ray Data calls, for as many blocks at once, with the name of a column and a value.

    Whatever kills it, Ray starts it again and gives it its blocks again. What a block's part holds
    by then is not asked again. A server that dies takes it along: that is the same case. A block
    that was begun before is without company; one that was begun twice is sent line by line, for it
    was alone when the worker died.
    """

    def __init__(self, options: WorkerOptions, attempts: Any) -> None:
        self._options = options
        self._attempts = attempts
        self._parts = options.output
        self._rows = ParquetRows()
        self._room = Room(options.blocks_at_once)
        self._starting = threading.Lock()
        self._client: httpx.AsyncClient | None = None
        self._server = ExitStack()  # ends with this process, which holds its leash
        # All blocks' lines are sent from one loop, in which they can be counted.
        self._in_flight = asyncio.Semaphore(options.concurrency)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """A block's JSON → how many of its lines are answered and failed; or why none can be."""
        try:
            block = Block.from_json(str(batch["item"][0]))
            num_answered, num_failed = self._answer(block)
        except (ClientError, OSError) as error:
            return _row(error=str(error))
        return _row(num_answered, num_failed, block.num_bytes)

    def _answer(self, block: Block) -> tuple[int, int]:
        client = self._ready_client()
        num_begun, deaths = ray.get(self._attempts.of.remote(block.name))
        results = _BlockResults(self._parts, block)
        with self._room.taken(alone=num_begun > 0):
            ray.get(self._attempts.begin.remote(block.name))
            lines = list(block.lines(self._options.source, self._rows))
            sending = self._send(client, lines, results, deaths, one_by_one=num_begun > 1)
            try:
                asyncio.run_coroutine_threadsafe(sending, self._loop).result()
            except NoServerError as error:
                _die(str(error))
        results.write()
        ray.get(self._attempts.end.remote(block.name))
        return results.num_answered, len(results.failures)

    def _ready_client(self) -> httpx.AsyncClient:
        """Of its server. Raises NoServerError where none can start: no block would fare better."""
        with self._starting:
            if self._client is None:
                endpoint = self._start_server()
                self._client = endpoint.async_client(
                    self._options.timeout_s, self._options.concurrency + 1
                )
            return self._client

    def _start_server(self) -> Endpoint:
        worker = ray.get_runtime_context().get_actor_id()
        environ = {**os.environ, **self._options.variables}
        _log("a server is started")
        try:
            server = own_server(self._options.flags, environ, lambda _: None)
            endpoint = self._server.enter_context(server)
        except NoServerError as error:
            pause_s = ray.get(self._attempts.server_failed.remote(worker))
            if pause_s is None:
                node = f"{socket.gethostname()} ({get_node_ip_address()})"
                raise NoServerError(f"on {node}: {error}") from error
            _die(f"{error}; again in {pause_s:g} s", pause_s)
        ray.get(self._attempts.server_started.remote(worker))
        _log(f"its server is ready at {endpoint.url}")
        return endpoint

    async def _send(
        self,
        client: httpx.AsyncClient,
        lines: list[BatchRequest | BadLine],
        results: "_BlockResults",
        deaths: dict[int, int],
        *,
        one_by_one: bool,
    ) -> None:
        block, source = results.block, self._options.source
        in_flight = asyncio.Semaphore(1) if one_by_one else self._in_flight
        sender = Sender(
            client,
            str(client.base_url),
            lambda request: with_pictures(
                request.body, lambda path: source.picture_url(block.file, path)
            ),
            RetryPolicy(),
            lambda text: _log(f"{block.name}: {text}"),
        )

        async def answer(line: BatchRequest | BadLine) -> None:
            number = line.place.number
            if isinstance(line, BadLine):
                results.add(error_of(line.custom_id, "invalid_line", line.message, line.place))
            elif line.custom_id in results.before:
                results.num_answered += 1
            elif deaths.get(number, 0) >= MAX_DEATHS:
                results.add(error_of(line.custom_id, "worker_died", _DIED, line.place))
            elif one_by_one:
                await self._attempts.begin_line.remote(block.name, number)
                results.add(await sender.send(line))
                await asyncio.to_thread(results.write)
                await self._attempts.end_line.remote(block.name, number)
            else:
                results.add(await sender.send(line))

        async def answer_in_turn(line: BatchRequest | BadLine) -> None:
            async with in_flight:
                await answer(line)

        # No TaskGroup: it wraps its errors in groups, and the first one is enough. The others end
        # with this process, or with the batch.
        await asyncio.gather(*map(answer_in_turn, lines))


@dataclass
class _BlockResults:
    """before: the answers that its part holds already, which stay."""

    parts: Parts
    block: Block
    num_answered: int = 0
    failures: list[BatchResult] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.before = self.parts.answers(self.block.name)
        self._new: list[bytes] = []

    def add(self, result: BatchResult) -> None:
        if result.is_answer:
            self.num_answered += 1
            self._new.append(result.to_line())
        else:
            self.failures.append(result)

    def write(self) -> None:
        self.parts.write_answers(self.block.name, [*self.before.values(), *self._new])
        self.parts.write_failures(self.block.name, self.failures)


def _die(why: str, pause_s: float = 0.0) -> NoReturn:
    """Ray starts the worker again, where it has room for one."""
    _log(why)
    time.sleep(pause_s)
    os._exit(1)


def _log(text: str) -> None:
    """Into the worker's file among Ray's logs: at the command's stderr there is a bar."""
    sys.stderr.write(f"phi3v batch: {text}\n")


def _row(
    num_answered: int = 0, num_failed: int = 0, num_bytes: int = 0, error: str = ""
) -> dict[str, list[Any]]:
    return {
        "num_answered": [num_answered],
        "num_failed": [num_failed],
        "num_bytes": [num_bytes],
        "error": [error],
    }
