"""An actor that keeps a server, and gets blocks of lines answered by it."""

import asyncio
import os
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import ray

from ...batch.lines import BadLine, BatchRequest
from ...batch.local_pictures import with_pictures
from ...batch.own_server import own_server
from ...batch.results import BatchResult, error_of
from ...batch.sender import RetryPolicy, Sender
from ...client.endpoint import Endpoint
from ...client.errors import ClientError, NoServerError
from .attempts import MAX_DEATHS
from .blocks import Block
from .parts import Parts
from .room import Room
from .source import picture_url

# So that a block's last answers do not have the engine to themselves.
BLOCKS_AT_ONCE = 2
_DIED = "the worker or its server died each time that this line was with it alone"


@dataclass(frozen=True)
class WorkerOptions:
    """flags, variables: of its server. concurrency: lines of a block in flight."""

    output: Parts
    flags: list[str]
    variables: dict[str, str]
    concurrency: int
    timeout_s: float


class Worker:
    """What Ray Data calls, for as many blocks at once, with the name of a column and a value.

    Whatever kills it, Ray starts it again and gives it its blocks again. What a block's part holds
    by then is not asked again. A server that dies takes it along: that is the same case.
    """

    def __init__(self, options: WorkerOptions, attempts: Any) -> None:
        self._options = options
        self._attempts = attempts
        self._parts = options.output
        self._room = Room(BLOCKS_AT_ONCE)
        self._starting = threading.Lock()
        self._endpoint: Endpoint | None = None
        self._server = ExitStack()  # ends with this process, which holds its leash

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """A block's JSON → how many of its lines are answered and failed; or why none can be."""
        try:
            block = Block.from_json(str(batch["item"][0]))
            num_answered, num_failed = self._answer(block)
        except (ClientError, OSError) as error:
            return _row(error=str(error))
        return _row(num_answered, num_failed, block.num_bytes)

    def _answer(self, block: Block) -> tuple[int, int]:
        endpoint = self._ready_endpoint()
        earlier, deaths = ray.get(self._attempts.begin.remote(block.name))
        alone = earlier > 0
        results = _BlockResults(self._parts, block)
        with self._room.taken(alone=alone):
            try:
                asyncio.run(self._send(block, results, endpoint, deaths, alone=alone))
            except NoServerError:
                os._exit(1)
        results.write()
        ray.get(self._attempts.end.remote(block.name))
        return results.num_answered, len(results.failures)

    def _ready_endpoint(self) -> Endpoint:
        """Raises NoServerError where a server cannot start: no block would fare better."""
        with self._starting:
            if self._endpoint is None:
                environ = {**os.environ, **self._options.variables}
                server = own_server(self._options.flags, environ, lambda _: None)
                self._endpoint = self._server.enter_context(server)
            return self._endpoint

    async def _send(
        self,
        block: Block,
        results: "_BlockResults",
        endpoint: Endpoint,
        deaths: dict[int, int],
        *,
        alone: bool,
    ) -> None:
        room = asyncio.Semaphore(1 if alone else self._options.concurrency)

        async def answer(line: BatchRequest | BadLine) -> None:
            number = line.place.number
            if isinstance(line, BadLine):
                results.add(error_of(line.custom_id, "invalid_line", line.message, line.place))
            elif line.custom_id in results.before:
                results.num_answered += 1
            elif deaths.get(number, 0) >= MAX_DEATHS:
                results.add(error_of(line.custom_id, "worker_died", _DIED, line.place))
            elif alone:
                await self._attempts.begin_line.remote(block.name, number)
                results.add(await sender.send(line))
                await asyncio.to_thread(results.write)
                await self._attempts.end_line.remote(block.name, number)
            else:
                results.add(await sender.send(line))

        async def answer_in_turn(line: BatchRequest | BadLine) -> None:
            async with room:
                await answer(line)

        async with endpoint.async_client(
            self._options.timeout_s, self._options.concurrency + 1
        ) as client:
            sender = Sender(
                client,
                endpoint.url,
                lambda request: with_pictures(
                    request.body, lambda path: picture_url(block.file, path)
                ),
                RetryPolicy(),
                lambda _: None,
            )
            # No TaskGroup: it wraps its errors in groups, and the first one is enough.
            await asyncio.gather(*map(answer_in_turn, block.lines()))


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


def _row(
    num_answered: int = 0, num_failed: int = 0, num_bytes: int = 0, error: str = ""
) -> dict[str, list[Any]]:
    return {
        "num_answered": [num_answered],
        "num_failed": [num_failed],
        "num_bytes": [num_bytes],
        "error": [error],
    }
