"""A stand-in for Ray Serve: a handle whose calls and streams do what a test says."""

import asyncio
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Generator
from typing import Any

from scoring.engine_client import EngineState
from scoring.engine_config import EngineLimits
from scoring.engine_link import to_refused
from scoring.errors import EngineDeadError
from scoring.sequence import FinishReason, TokenOutput

with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of Ray's own modules
    from server.ray.fleet import Fleet
    from server.ray.messages import Batch, Order, Report, Ticket, encode
    from server.ray.ray_engine import RayEngine

REPORT = Report(
    state=EngineState.READY,
    limits=EngineLimits(max_model_len=100, vocab_size=1000),
    stats=None,
    description=None,
    step_age_s=0.0,
    num_requests=0,
    num_tokens=0,
    chunks=[],
    pictures=[],
)


class ScriptedCall:
    """Of a request. Awaited, it ends as the test makes `end` do."""

    def __init__(self, ticket: Ticket) -> None:
        self.ticket = ticket
        self.end: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self.is_cancelled = False

    def __await__(self) -> Generator[Any, None, bytes | None]:
        return self.end.__await__()

    def cancel(self) -> None:
        self.is_cancelled = True


class ScriptedStream:
    """From a replica. Says what the test puts into `said`; an exception breaks it."""

    def __init__(self) -> None:
        self.said: asyncio.Queue[bytes | Exception] = asyncio.Queue()
        self._counts: Counter[str] = Counter()

    def say(self, *outputs: TokenOutput) -> None:
        self.said.put_nowait(batch(*outputs, counts=self._counts))

    def lose(self, *outputs: TokenOutput) -> None:
        """Said, but never heard."""
        batch(*outputs, counts=self._counts)

    def __aiter__(self) -> "ScriptedStream":
        return self

    async def __anext__(self) -> bytes:
        word = await self.said.get()
        if isinstance(word, Exception):
            raise word
        return word

    def cancel(self) -> None:
        """Nobody reads on."""


class ScriptedHandle:
    """calls: in the order in which they were made. streams: all from each replica, by its name."""

    def __init__(self) -> None:
        self.calls: list[ScriptedCall] = []
        self.streams: defaultdict[str, list[ScriptedStream]] = defaultdict(list)
        self.run, self.outputs = _Method(self._run), _Method(self._outputs)

    def options(self, *, stream: bool) -> "ScriptedHandle":
        assert stream
        return self

    def _run(self, ticket: Ticket, order: Order) -> ScriptedCall:
        self.calls.append(ScriptedCall(ticket))
        return self.calls[-1]

    def _outputs(self, name: str, ingress: str) -> ScriptedStream:
        self.streams[name].append(ScriptedStream())
        return self.streams[name][-1]


class _Method:
    """Of a handle: called by its `remote`."""

    def __init__(self, remote: Any) -> None:
        self.remote = remote


def batch(*outputs: TokenOutput, counts: Counter[str] | None = None) -> bytes:
    """counts: of what each sequence has said before, which go on."""
    counts = Counter() if counts is None else counts
    numbers = []
    for output in outputs:
        numbers.append(counts[output.sequence_id])
        counts[output.sequence_id] += 1
    return encode(Batch(time.monotonic(), list(outputs), numbers, []))


def death(sequence_id: str) -> bytes:
    """What a replica returns of a request whose engine has died."""
    refused = to_refused(sequence_id, EngineDeadError("the engine's process has died"))
    return encode(Batch(time.monotonic(), [], [], [refused]))


def last(sequence_id: str, token_id: int) -> TokenOutput:
    return TokenOutput(sequence_id, token_id, FinishReason.LENGTH)


def make_ray_engine(handle: ScriptedHandle, fleet: Fleet) -> RayEngine:
    return RayEngine(
        handle,  # type: ignore[arg-type]  # as much of a DeploymentHandle as it needs
        fleet,
        num_replicas=1,
        max_num_seqs=4,
        max_queued=4,
        max_queued_tokens=None,
    )
