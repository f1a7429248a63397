"""An engine as Ray Serve runs it: one replica, with a device of its own.

The engine's loop is in a process of its own here, too, which ends with this one. This one takes
requests, batches what comes of them for each ingress, and tells the routers how busy it is.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Any

from ray import serve

from scoring.async_engine import AsyncEngine
from scoring.engine_client import EngineState, is_stalled
from scoring.engine_link import to_refused
from scoring.errors import EngineDeadError, InvalidSequenceError, ScoringError
from scoring.logs import configure_logging
from scoring.router import Memory
from scoring.wire import WireError

from ..served_checkpoint import served_checkpoint
from ..serving import to_engine_config
from ..settings import Settings
from ..tracing import make_tracer
from .mailbox import Mailbox
from .messages import REPORT, Order, Report, Ticket, encode, to_sequence

logger = logging.getLogger("phi3v")

_POLL_S = 0.1
_IDLE_S = 30.0
# Names of chunks that a report tells routers of: 65,536 tokens, ten kilobytes.
_REPORTED_CHUNKS = 1024


class EngineReplica:
    """The deployment's class. It is made when Ray starts a replica, and serves once it has loaded:
    Ray sends nothing before."""

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc]  # Ray awaits it
        configure_logging(settings.log_level.upper(), settings.log_format)
        self._stall_s = settings.stall_s
        self._name = serve.get_replica_context().replica_id.unique_id
        self._memory = Memory()
        self._mailboxes: defaultdict[str, Mailbox] = defaultdict(Mailbox)
        self._num_tokens = 0
        self._tracer = make_tracer(settings)
        checkpoint = await asyncio.to_thread(served_checkpoint, settings)
        self._engine = AsyncEngine(
            to_engine_config(settings, checkpoint),
            max_queued=settings.max_queued_requests,
            max_queued_tokens=settings.max_queued_tokens,
            own_process=True,
        )
        self._engine.start()
        while self._engine.state is EngineState.LOADING:  # noqa: ASYNC110  # it tells no changes
            await asyncio.sleep(_POLL_S)
        if self._engine.state is not EngineState.READY:
            raise RuntimeError(f"the engine could not be built: {self._engine.failure}")
        logger.info("replica %s is ready", self._name)

    async def __del__(self) -> None:
        """Ray awaits it when it ends a replica, also one whose `__init__` has failed."""
        if (tracer := getattr(self, "_tracer", None)) is not None:
            await tracer.close()

    async def run(self, ticket: Ticket, order: Order) -> bytes | None:
        """Run a sequence to its end; what comes of it goes to the ingress's stream. Cancel the call
        to abort. Where the ingress has no stream, or the engine has died: a Batch of all that it
        has not seen."""
        self._memory.add(ticket.prompt)
        mailbox = self._mailboxes[order.ingress]
        mailbox.num_open += 1
        num_prompt_tokens = ticket.prompt.num_tokens
        num_outputs = 0
        self._num_tokens += num_prompt_tokens
        is_dead = False
        start = time.monotonic()
        try:
            sequence = to_sequence(order, start)
            async with aclosing(self._engine.generate(sequence)) as outputs:
                async for output in outputs:
                    mailbox.put(output, num_outputs)
                    num_outputs += 1
                    self._num_tokens += 1
        except ScoringError as error:
            is_dead = isinstance(error, EngineDeadError)
            mailbox.put(to_refused(ticket.sequence_id, error))
        except WireError as error:
            logger.error("a request could not be read: %s", error)
            unreadable = InvalidSequenceError("a value of the request has a type that is not taken")
            mailbox.put(to_refused(ticket.sequence_id, unreadable))
        finally:
            self._num_tokens -= num_prompt_tokens + num_outputs
            mailbox.num_open -= 1
            self._drop_if_idle(order.ingress)
            if self._tracer is not None and order.traceparent is not None:
                self._tracer.export_part(
                    "engine",
                    order.traceparent,
                    start,
                    {"phi3v.replica": self._name, "gen_ai.usage.output_tokens": num_outputs},
                )
        if is_dead or not mailbox.is_read:
            return mailbox.take_of(ticket.sequence_id)
        return None

    async def outputs(self, name: str, ingress: str) -> AsyncGenerator[bytes, None]:
        """A Batch for each step. name: ours; the call was routed by it. It ends when there has been
        nothing to say for a while, for the ingress may be gone, else it opens another; and when the
        ingress has opened another already."""
        try:
            async with aclosing(self._mailboxes[ingress].batches(_IDLE_S)) as batches:
                async for batch in batches:
                    yield batch
        finally:
            self._drop_if_idle(ingress)

    # What Ray asks, it asks in this event loop only if it can await it, else in threads: they would
    # read what changes under their hands.

    async def record_routing_stats(self) -> dict[str, Any]:
        """Asked by Ray's controller about once a second, and given to every router."""
        engine = self._engine
        chunks, pictures = self._memory.latest(_REPORTED_CHUNKS)
        report = Report(
            state=engine.state,
            limits=engine.limits,
            stats=engine.stats,
            description=engine.description,
            step_age_s=engine.step_age_s,
            num_requests=engine.num_open,
            num_tokens=self._num_tokens,
            chunks=chunks,
            pictures=pictures,
        )
        return {REPORT: encode(report)}

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Asked by Ray for autoscaling.py."""
        return {
            "requests": float(self._engine.num_open),
            "queued_tokens": float(self._engine.num_queued_tokens),
        }

    async def check_health(self) -> None:
        """Ray replaces a replica that raises here."""
        if not self._engine.state.is_serving:
            raise RuntimeError(f"the engine is {self._engine.state}: {self._engine.failure}")
        if is_stalled(self._engine, self._stall_s):
            raise RuntimeError(f"no step for {self._engine.step_age_s:.0f} s, though there is work")

    def _drop_if_idle(self, ingress: str, *, even_full: bool = False) -> None:
        """A full one waits for its reader, whose stream may have broken, though not for ever."""
        mailbox = self._mailboxes.get(ingress)
        if mailbox is None or not mailbox.is_idle:
            return
        if even_full or mailbox.is_empty:
            del self._mailboxes[ingress]
        else:
            drop = partial(self._drop_if_idle, ingress, even_full=True)
            asyncio.get_running_loop().call_later(_IDLE_S, drop)
