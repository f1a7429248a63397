"""A trace of chats over many replicas, on a simulated clock. A seed gives its figures again."""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count

import numpy as np

from scoring.engine_client import EngineState
from scoring.errors import EngineOverloadedError
from scoring.router import Memory, prompt_key
from scoring.sequence import Sequence, TokenOutput
from server.ray.messages import Report

from .policies import POLICIES, Policy
from .replica import SimulatedReplica, Sizes
from .step_times import StepTimes
from .trace import Chat

# Replicas report once a second (server/ray/application.py), and are heard a little later.
_REPORT_PERIOD_S, _REPORT_DELAY_S = 1.0, 0.3
_REPORTED_CHUNKS = 1024  # as server/ray/engine_replica.py
_RETRY_S = 1.0  # a 429's Retry-After


@dataclass(frozen=True)
class Outcome:
    """Between warm-up and end. hits: the share of prompt tokens that were in the prefix cache.
    busy: the share of the time in which a replica computed, on average, and of the idlest one.
    first_token_s: after how long half of the requests, and 99 of 100, had their first token.
    refused: answered 429, to be asked again."""

    tokens_per_s: float
    requests_per_s: float
    hits: float
    busy: float
    idlest: float
    first_token_s: tuple[float, float]
    refused: int
    preemptions: int


@dataclass(frozen=True)
class Plan:
    """What is simulated, but for the chats. fold: of one giant instead of so many replicas.
    num_users: of all together, each with one chat after the other."""

    times: StepTimes
    sizes: Sizes
    num_replicas: int
    num_users: int
    seconds: float
    warm_up_s: float
    policy: str = "ours"
    num_ingresses: int = 1
    seed: int = 0
    fold: int = 1


@dataclass
class _Asked:
    """A turn of a chat, asked first at that time."""

    chat: Chat
    turn: int
    since: float
    sequence: Sequence
    num_said: int = 0


class Simulation:
    """Events are calls, in the order of their times."""

    def __init__(self, plan: Plan, chats: Iterator[Chat]) -> None:
        """chats: no fewer than there will be time for."""
        self._plan, self._chats = plan, chats
        sizes = plan.sizes.times(plan.fold)
        self._replicas = [
            SimulatedReplica(plan.times, sizes, plan.fold) for _ in range(plan.num_replicas)
        ]
        self._memories = [Memory() for _ in self._replicas]
        # What each remembers, as of its last report; None where it has been sent something since.
        self._latest: list[tuple[list[bytes], list[bytes]] | None] = [None] * plan.num_replicas
        self._policy: Policy = POLICIES[plan.policy](
            self._replicas,
            plan.num_ingresses,
            sizes.max_num_seqs + sizes.max_queued,
            np.random.default_rng([plan.seed, 7]),
        )
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self._now = 0.0
        self._asked: dict[str, _Asked] = {}
        self._counts = _Counts()
        for _ in range(plan.num_users):
            self._begin_chat()

    def run(self) -> Outcome:
        plan = self._plan
        if plan.policy == "ours":
            self._at(_REPORT_PERIOD_S, self._report)
        self._go_on(plan.warm_up_s)
        busy = [replica.busy_s for replica in self._replicas]
        self._counts = counts = _Counts()
        self._go_on(plan.seconds)
        seconds = plan.seconds - plan.warm_up_s
        shares = [
            (replica.busy_s - before) / seconds
            for replica, before in zip(self._replicas, busy, strict=True)
        ]
        waits = counts.first_token_s or [0.0]
        return Outcome(
            tokens_per_s=counts.num_said / seconds,
            requests_per_s=counts.num_ended / seconds,
            hits=counts.num_cached / max(1, counts.num_prompt),
            busy=float(np.mean(shares)),
            idlest=min(shares),
            first_token_s=(float(np.percentile(waits, 50)), float(np.percentile(waits, 99))),
            refused=counts.num_refused,
            preemptions=sum(replica.num_preemptions for replica in self._replicas),
        )

    def _go_on(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self._now, _, act = heapq.heappop(self._events)
            act()

    def _at(self, when: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), act))

    def _begin_chat(self) -> None:
        self._ask_later(next(self._chats), 0)

    def _ask_later(self, chat: Chat, turn: int) -> None:
        """When its user has thought."""
        since = self._now + chat.turns[turn].think_s
        self._at(since, partial(self._ask, _Asked(chat, turn, since, chat.sequence(turn))))

    def _ask(self, asked: _Asked) -> None:
        sequence = asked.sequence
        prompt = prompt_key(sequence)
        chosen = self._policy.choose(sequence.id, prompt)
        replica = self._replicas[chosen]
        was_idle = replica.due is None
        try:
            replica.submit(sequence, asked.chat.answer(asked.turn), self._now)
        except EngineOverloadedError:
            self._counts.num_refused += 1
            self._policy.ended(sequence.id)
            self._at(self._now + _RETRY_S, partial(self._ask, asked))
            return
        self._asked[sequence.id] = asked
        self._memories[chosen].add(prompt)
        self._latest[chosen] = None
        if was_idle:
            self._await(chosen)

    def _await(self, number: int) -> None:
        due = self._replicas[number].due
        if due is not None:
            self._at(due, partial(self._advance, number))

    def _advance(self, number: int) -> None:
        for output in self._replicas[number].advance():
            self._enter(output)
        self._await(number)

    def _enter(self, output: TokenOutput) -> None:
        asked, counts = self._asked[output.sequence_id], self._counts
        asked.num_said += 1
        counts.num_said += 1
        self._policy.grew(output.sequence_id)
        if asked.num_said == 1:
            counts.num_prompt += asked.sequence.num_prompt_tokens
            counts.num_cached += output.num_cached
            counts.first_token_s.append(self._now - asked.since)
        if output.finish_reason is None:
            return
        counts.num_ended += 1
        self._policy.ended(output.sequence_id)
        del self._asked[output.sequence_id]
        if asked.turn + 1 < len(asked.chat.turns):
            self._ask_later(asked.chat, asked.turn + 1)
        else:
            self._begin_chat()

    def _report(self) -> None:
        reports = [self._report_of(number) for number in range(len(self._replicas))]
        self._at(self._now + _REPORT_DELAY_S, partial(self._policy.hear, reports))
        self._at(self._now + _REPORT_PERIOD_S, self._report)

    def _report_of(self, number: int) -> Report:
        replica = self._replicas[number]
        latest = self._latest[number] or self._memories[number].latest(_REPORTED_CHUNKS)
        self._latest[number] = latest
        chunks, pictures = latest
        return Report(
            state=EngineState.READY,
            limits=None,
            stats=None,
            description=None,
            step_age_s=0.0,
            num_requests=replica.num_open,
            num_tokens=replica.num_tokens,
            chunks=chunks,
            pictures=pictures,
        )


@dataclass
class _Counts:
    num_said: int = 0
    num_prompt: int = 0
    num_cached: int = 0
    num_ended: int = 0
    num_refused: int = 0
    first_token_s: list[float] = field(default_factory=list)
