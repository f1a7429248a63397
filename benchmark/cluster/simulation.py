"""A trace of chats over many replicas, on a simulated clock. A seed gives its figures again."""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count

import numpy as np

from scoring.engine_client import EngineState
from scoring.errors import EngineOverloadedError
from scoring.router import Memory, prompt_key
from scoring.sequence import Sequence
from server.ray.messages import Report

from .policies import POLICIES, Policy
from .replica import Request, SimulatedReplica, Sizes
from .step_times import StepTimes
from .trace import Chat

# Replicas report once a second (server/ray/application.py), and are heard a little later.
_REPORT_PERIOD_S, _REPORT_DELAY_S = 1.0, 0.3
_REPORTED_CHUNKS = 1024  # as server/ray/engine_replica.py
_RETRY_S = 1.0  # a 429's Retry-After, and what it costs to find that a replica is gone


@dataclass(frozen=True)
class Outcome:
    """Between warm-up and end. hits: the share of prompt tokens that were in the prefix cache.
    busy: the share of the time in which a replica computed, on average, and of the idlest one.
    first_token_s: after how long half of the requests, and 99 of 100, had their first token.
    refused: answered 429, to be asked again. by_replica: requests that each was given, in all."""

    tokens_per_s: float
    requests_per_s: float
    hits: float
    busy: float
    idlest: float
    first_token_s: tuple[float, float]
    refused: int
    preemptions: int
    by_replica: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """What is simulated, but for the chats. fold: of one giant instead of so many replicas. lost:
    when which replica dies. num_users: of all together, each with one chat after the other."""

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
    lost: tuple[tuple[float, int], ...] = ()


@dataclass(frozen=True)
class _Asked:
    """A turn of a chat, asked first at that time; attempt: how often it had to be asked again."""

    chat: Chat
    turn: int
    since: float
    attempt: int = 0


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
        self._there = list(range(plan.num_replicas))
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
        self._counts = _Counts([0] * plan.num_replicas)
        for _ in range(plan.num_users):
            self._begin_chat()
        for when, replica in plan.lost:
            self._at(when, partial(self._lose, replica))

    def run(self) -> Outcome:
        plan = self._plan
        if plan.policy == "ours":
            self._at(_REPORT_PERIOD_S, self._report)
        self._go_on(plan.warm_up_s)
        said, busy = self._num_said(), [replica.busy_s for replica in self._replicas]
        self._counts = counts = _Counts(self._counts.by_replica)
        self._go_on(plan.seconds)
        seconds = plan.seconds - plan.warm_up_s
        shares = [
            (replica.busy_s - before) / seconds
            for replica, before in zip(self._replicas, busy, strict=True)
        ]
        waits = counts.first_token_s or [0.0]
        return Outcome(
            tokens_per_s=(self._num_said() - said) / seconds,
            requests_per_s=counts.num_ended / seconds,
            hits=counts.num_cached / max(1, counts.num_prompt),
            busy=float(np.mean(shares)),
            idlest=min(shares),
            first_token_s=(float(np.percentile(waits, 50)), float(np.percentile(waits, 99))),
            refused=counts.num_refused,
            preemptions=sum(replica.num_preemptions for replica in self._replicas),
            by_replica=tuple(counts.by_replica),
        )

    def _go_on(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self._now, _, act = heapq.heappop(self._events)
            act()

    def _at(self, when: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), act))

    def _num_said(self) -> int:
        return sum(replica.num_said for replica in self._replicas)

    def _begin_chat(self) -> None:
        self._ask_later(next(self._chats), 0)

    def _ask_later(self, chat: Chat, turn: int) -> None:
        """When its user has thought."""
        since = self._now + chat.turns[turn].think_s
        self._ask_at(since, _Asked(chat, turn, since))

    def _ask_at(self, when: float, asked: _Asked) -> None:
        self._at(when, partial(self._ask, asked))

    def _ask(self, asked: _Asked) -> None:
        sequence = asked.chat.sequence(asked.turn, asked.attempt)
        prompt = prompt_key(sequence)
        again = partial(self._again, asked)
        if not self._there:
            again()
            return
        name = sequence.id
        ranked = self._policy.choose(name, prompt, self._there)
        chosen = next((replica for replica in ranked if replica in self._there), None)
        if chosen is None:  # all that the ingress knows of are gone
            self._policy.ended(name)
            again()
            return
        self._policy.went(name, chosen, prompt)
        request = Request(
            sequence,
            asked.chat.answer(asked.turn),
            on_first=partial(self._has_begun, asked, sequence),
            on_end=partial(self._has_ended, asked, name),
            on_token=partial(self._policy.grew, name),
        )
        try:
            self._replicas[chosen].submit(request, self._now)
        except EngineOverloadedError:
            self._counts.num_refused += 1
            self._policy.ended(name)
            again()
            return
        self._asked[name] = asked
        self._counts.by_replica[chosen] += 1
        self._memories[chosen].add(prompt)
        self._latest[chosen] = None
        self._await(chosen)

    def _again(self, asked: _Asked) -> None:
        self._ask_at(self._now + _RETRY_S, replace(asked, attempt=asked.attempt + 1))

    def _await(self, number: int) -> None:
        due = self._replicas[number].due
        if due is not None:
            self._at(due, partial(self._advance, number, due))

    def _advance(self, number: int, due: float) -> None:
        replica = self._replicas[number]
        if replica.due == due:  # else what was to end then ends earlier, or never
            replica.advance()
            self._await(number)

    def _has_begun(self, asked: _Asked, sequence: Sequence, now: float) -> None:
        self._counts.num_prompt += sequence.num_prompt_tokens
        self._counts.num_cached += sequence.num_cached or 0
        self._counts.first_token_s.append(now - asked.since)

    def _has_ended(self, asked: _Asked, name: str, _: float) -> None:
        self._policy.ended(name)
        del self._asked[name]
        self._counts.num_ended += 1
        if asked.turn + 1 < len(asked.chat.turns):
            self._ask_later(asked.chat, asked.turn + 1)
        else:
            self._begin_chat()

    def _lose(self, number: int) -> None:
        self._there.remove(number)
        for request in self._replicas[number].lose():
            asked = self._asked.pop(request.sequence.id)
            self._policy.ended(request.sequence.id)
            self._again(asked)

    def _report(self) -> None:
        reports = {number: self._report_of(number) for number in self._there}
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
    by_replica: list[int]
    num_prompt: int = 0
    num_cached: int = 0
    num_ended: int = 0
    num_refused: int = 0
    first_token_s: list[float] = field(default_factory=list)
