"""The engines of a cluster, as one EngineClient: calls go through Ray Serve's handle, each to the
replica that its router chooses; tokens come back by one stream from every replica."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import replace
from typing import Any
from uuid import uuid4

from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle

from scoring.engine_client import EngineState, check_state
from scoring.engine_config import EngineDescription, EngineLimits, EngineStats
from scoring.engine_group import sum_stats
from scoring.engine_link import to_error
from scoring.errors import (
    EngineDeadError,
    EngineNotReadyError,
    EngineOverloadedError,
    GenerationError,
    ScoringError,
)
from scoring.outbox import Outbox, Outboxes
from scoring.queue_bounds import QueueBounds
from scoring.router import prompt_key
from scoring.sequence import Sequence, TokenOutput

from ..tracing import TRACEPARENT
from .fleet import Fleet
from .messages import Batch, Order, Report, Ticket, decode_batch, to_order
from .replica_view import ReplicaView

logger = logging.getLogger("phi3v")

_LOST = "the engine that ran this request stopped; others serve or will, try again"
_STRANDED = "the last engine stopped before it took this request; others will serve, try again"
# For the last tokens to come by the stream once the call is over.
_LAST_WORDS_S = 5.0
_RETRY_S = 0.5


class RayEngine:
    """num_replicas: as many as there should be at least; with fewer it is DEGRADED. max_num_seqs,
    max_queued: that run and wait at each replica. max_queued_tokens: see QueueBounds."""

    name = "all"
    failure = None
    step_age_s = 0.0  # Ray watches the replicas itself: a stalled one is replaced
    loaded_bytes = total_bytes = 0

    def __init__(
        self,
        handle: DeploymentHandle,
        fleet: Fleet,
        *,
        num_replicas: int,
        max_num_seqs: int,
        max_queued: int,
        max_queued_tokens: int | None,
    ) -> None:
        self._run = handle.run
        self._read = handle.options(stream=True).outputs
        self._fleet = fleet
        self._fleet.max_requests = max_num_seqs + max_queued
        self._num_replicas = num_replicas
        self._max_num_seqs = max_num_seqs
        self._max_queued = max_queued
        self._max_queued_tokens = max_queued_tokens
        self._ingress = uuid4().hex
        self._outboxes = Outboxes()
        self._calls: set[asyncio.Task[None]] = set()
        self._streams: dict[str, asyncio.Task[None]] = {}
        self._watcher: asyncio.Task[None] | None = None
        self._is_stopped = False
        self._limits: EngineLimits | None = None

    def start(self) -> None:
        """Ray has started the replicas, or will; this only listens."""
        self._watcher = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Only this end: the replicas are Ray's."""
        self._is_stopped = True
        self._outboxes.fail(EngineNotReadyError("the server is going down"))
        tasks = [task for task in (self._watcher, *self._streams.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def _reports(self) -> list[Report]:
        """Of the replicas that can serve, as far as they have reported."""
        reports = self._fleet.reports.values()
        return [report for report in reports if report is not None and report.state.is_serving]

    @property
    def _num_there(self) -> int:
        """Replicas that serve. One that has not reported yet does: Ray lists it once it serves,
        and in an update the last old one goes at that moment."""
        reports = self._fleet.reports.values()
        return sum(report is None or report.state.is_serving for report in reports)

    @property
    def members(self) -> tuple[ReplicaView, ...]:
        """The replicas that take requests."""
        return tuple(ReplicaView(name, report) for name, report in self._fleet.reports.items())

    @property
    def state(self) -> EngineState:
        """LOADING while there is no replica, be it that none has come yet or none is left: Ray
        starts others."""
        num_there = self._num_there
        if self._is_stopped:
            return EngineState.STOPPED
        if num_there == 0 or self.limits is None:
            return EngineState.LOADING
        return EngineState.DEGRADED if num_there < self._num_replicas else EngineState.READY

    @property
    def limits(self) -> EngineLimits | None:
        """What each replica can take; where none has reported yet, what those before could."""
        limits = [report.limits for report in self._reports if report.limits is not None]
        if limits:
            self._limits = EngineLimits(
                max_model_len=min(one.max_model_len for one in limits),
                vocab_size=min(one.vocab_size for one in limits),
            )
        return self._limits

    @property
    def stats(self) -> EngineStats | None:
        """The sums over the replicas, as of their last reports."""
        return sum_stats(report.stats for report in self._reports if report.stats is not None)

    @property
    def description(self) -> EngineDescription | None:
        """The first replica's."""
        return next((report.description for report in self._reports), None)

    @property
    def num_open(self) -> int:
        """This ingress's requests."""
        return len(self._outboxes)

    def check_ready(self) -> EngineLimits:
        return check_state(self.state, self.limits)

    def check_room(self, num_prompt_tokens: int = 0) -> None:
        """As far as this ingress can tell; each replica has the last word."""
        num_replicas = max(1, self._num_there)
        tokens = self._max_queued_tokens
        bounds = QueueBounds(
            num_replicas * self._max_queued, None if tokens is None else num_replicas * tokens
        )
        bounds.check_num_open(self.num_open, num_replicas * self._max_num_seqs)
        longest = num_replicas * self.check_ready().max_model_len
        bounds.check_tokens(self._outboxes.num_queued_tokens, num_prompt_tokens, longest)

    async def generate(self, sequence: Sequence) -> AsyncGenerator[TokenOutput, None]:
        """As AsyncEngine.generate, on the replica that suits best; on a second one, if that dies
        before it has said a word. If it dies later, or there is none left to send it to,
        EngineNotReadyError: another try will be answered."""
        self.check_ready()
        self.check_room(sequence.num_prompt_tokens)
        order = to_order(sequence, self._ingress, time.monotonic(), TRACEPARENT.get())
        outbox = self._outboxes.open(sequence)
        self._fleet.opened(sequence.id)
        over = asyncio.Event()
        call = asyncio.create_task(
            self._call(Ticket(sequence.id, prompt_key(sequence)), order, outbox, over)
        )
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        try:
            while not outbox.is_finished:
                output = await outbox.take()
                self._fleet.grew(sequence.id)
                yield output
        except EngineNotReadyError:
            call.cancel()  # it may be this side's word, and the call wait for a replica still
            raise
        finally:
            self._outboxes.close(sequence.id)
            self._fleet.ended(sequence.id)
            over.set()
            if not outbox.is_finished:
                call.cancel()

    async def _call(
        self, ticket: Ticket, order: Order, outbox: Outbox, over: asyncio.Event
    ) -> None:
        """The request's call, from its routing to its end. Cancelled, it aborts the sequence.
        over: the outbox has been emptied."""
        error = await self._attempt(ticket, order, over)
        # Not a third time: it may be the request that they die of.
        if outbox.is_silent and isinstance(error, EngineNotReadyError):
            self._fleet.ended(ticket.sequence_id)
            self._fleet.opened(ticket.sequence_id)
            error = await self._attempt(ticket, replace(order, sent=time.monotonic()), over)
        outbox.put(error)  # where all was said, nobody reads it

    async def _attempt(self, ticket: Ticket, order: Order, over: asyncio.Event) -> ScoringError:
        """→ what is to be said where the last word did not come by the stream."""
        response = self._run.remote(ticket, order)
        try:
            missed = await response
            if missed is not None:
                batch = decode_batch(missed, time.monotonic())
                replica = self._fleet.replica_of(ticket.sequence_id)
                if replica is not None and _tells_of_death(batch):
                    self._fleet.lost(replica)
                    return EngineNotReadyError(_LOST)
                self._receive(batch, replica)
            with suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), _LAST_WORDS_S)
        except asyncio.CancelledError:
            await asyncio.to_thread(response.cancel)
            raise
        except BackPressureError:
            return EngineOverloadedError("no engine has room for a further request")
        except (RayActorError, RayServeException):
            return EngineNotReadyError(_LOST)
        except Exception:  # whoever waits must hear of it
            logger.exception("a call to a replica failed")
            return GenerationError("the request failed in the engine's replica")
        return EngineNotReadyError(_LOST)

    async def _watch(self) -> None:
        """Have a stream from every replica that takes requests, or has some of ours still. Where no
        replica is left, end what none has taken: Ray would keep it until another has loaded."""
        changed = asyncio.Event()
        loop = asyncio.get_running_loop()

        def on_change() -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(changed.set)

        self._fleet.on_change(on_change)
        while True:
            names = set(self._fleet.reports)
            for name in [name for name, stream in self._streams.items() if stream.done()]:
                del self._streams[name]  # asyncio logs its error
            for name in names - self._streams.keys():
                self._streams[name] = asyncio.create_task(self._follow(name))
            for name in self._streams.keys() - names:
                if not self._fleet.num_open(name):
                    self._streams.pop(name).cancel()
            for sequence_id in self._fleet.stranded:
                self._outboxes.put(sequence_id, EngineNotReadyError(_STRANDED))
            changed.clear()
            # Not by wait_for: in Python 3.11 it forgets a cancel that comes with a change.
            with suppress(TimeoutError):
                async with asyncio.timeout(2 * _RETRY_S):
                    await changed.wait()

    async def _follow(self, name: str) -> None:
        """Read a replica's stream, and open it anew when it ends, until it is cancelled."""
        while True:
            stream: Any = self._read.remote(name, self._ingress)
            try:
                async for data in stream:
                    self._receive(decode_batch(data, time.monotonic()), name)
            except (RayError, RayServeException) as error:
                logger.warning("the stream from replica %s broke: %r", name, error)
                await asyncio.sleep(_RETRY_S)
            finally:
                await asyncio.to_thread(stream.cancel)

    def _receive(self, batch: Batch, replica: str | None) -> None:
        """Where a connection breaks before the replica's consent has come, Ray sends a call to
        another, and both may run it."""
        for output, number in zip(batch.outputs, batch.numbers, strict=True):
            self._outboxes.put(output.sequence_id, output, replica, number)
        for refused in batch.errors:
            self._outboxes.put(refused.sequence_id, to_error(refused), replica)


def _tells_of_death(batch: Batch) -> bool:
    return any(isinstance(to_error(refused), EngineDeadError) for refused in batch.errors)
