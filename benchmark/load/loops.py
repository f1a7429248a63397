"""Closed loop: some callers, each asking again as soon as it has its answer. Open loop: arrivals
that wait for nobody's answer, as those of many independent users do."""

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .answer import Answer
from .client import Client
from .overhead import Overhead
from .workload import Conversation, Workload

OnAnswer = Callable[[Answer], None]


@dataclass(frozen=True)
class Stop:
    """When no more is asked: after so many requests or seconds, whichever comes first; at least one
    is given. Whoever was asked by then is waited for."""

    num_requests: int | None = None
    duration_s: float | None = None


class Talk:
    """Holds conversations with one endpoint in one loop, and keeps every answer, failed ones too.

    numbers: of the conversations of the workload, in the order of asking. max_running: most
    requests at a time. overhead: what the loop cost, but for what was made before it began.
    """

    def __init__(
        self, client: Client, workload: Workload, numbers: Iterator[int], on_answer: OnAnswer
    ) -> None:
        self.answers: list[Answer] = []
        self.max_running = 0
        self.overhead = Overhead()
        self._client = client
        self._workload = workload
        self._numbers = numbers
        self._on_answer = on_answer
        self._num_running = 0

    async def closed_loop(self, concurrency: int, stop: Stop) -> None:
        """A conversation's next turn follows its last answer at once."""
        budget = itertools.count() if stop.num_requests is None else range(stop.num_requests)
        tickets = iter(budget)
        firsts = await asyncio.gather(*(self._prepare() for _ in range(concurrency)))
        end = time.perf_counter() + (stop.duration_s or float("inf"))

        def may_ask() -> bool:
            return time.perf_counter() < end and next(tickets, None) is not None

        async def caller(conversation: Conversation) -> None:
            while True:
                upcoming = self._prepare()
                may_go_on = await self._hold(conversation, may_ask)
                conversation = await upcoming
                if not may_go_on:
                    return

        async with self.overhead:
            await asyncio.gather(*map(caller, firsts))

    async def open_loop(self, rate: float, stop: Stop, round_number: int = 1) -> None:
        """Poisson arrivals of conversations, rate of them per second, from the workload's seed and
        the round's number."""
        times = list(arrivals(rate, stop, self._workload.seed, round_number))
        # Made ahead: drawing pictures must not make anybody late.
        conversations = [await self._prepare() for _ in times]
        start = time.perf_counter()
        asked: list[asyncio.Task[bool]] = []
        async with self.overhead:
            for due, conversation in zip(times, conversations, strict=True):
                await asyncio.sleep(max(start + due - time.perf_counter(), 0.0))
                late_s = time.perf_counter() - start - due
                asked.append(asyncio.create_task(self._hold(conversation, lambda: True, late_s)))
            await asyncio.gather(*asked)

    def _prepare(self) -> "asyncio.Future[Conversation]":
        """The next conversation, made in a thread while others are being answered."""
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(None, self._workload.conversation, next(self._numbers))

    async def _hold(
        self, conversation: Conversation, may_ask: Callable[[], bool], late_s: float = 0.0
    ) -> bool:
        """Ask turn by turn; an error ends the conversation. → False once no more may be asked."""
        said: list[str] = []
        while len(said) < len(conversation.contents):
            if not may_ask():
                return False
            self._num_running += 1
            self.max_running = max(self.max_running, self._num_running)
            answer = await self._client.ask(conversation.messages(said), self._workload.max_tokens)
            self._num_running -= 1
            answer.late_s = 0.0 if said else late_s
            self.answers.append(answer)
            self._on_answer(answer)
            if answer.error is not None:
                break
            said.append(answer.text)
        return True


def arrivals(rate: float, stop: Stop, seed: int, round_number: int = 1) -> Iterator[float]:
    """Seconds from the start at which conversations arrive: a Poisson process, whose gaps are
    exponentially distributed with a mean of 1/rate. The first arrives at once. Another round is
    another draw: a median over rounds of one draw would say nothing of the others."""
    choose = random.Random(f"{seed} arrivals {round_number}")
    now = 0.0
    for number in itertools.count():
        if now > (stop.duration_s or float("inf")) or number == stop.num_requests:
            return
        yield now
        now += choose.expovariate(rate)
