"""What one ingress knows of the engines' replicas: who is there, how busy, what each remembers.

The request router, which Ray runs in a thread of its own, writes who is there and asks where a
request is to go; the engine client, in the event loop, says how far each request is. What other
ingresses send is heard of in the replicas' reports, about once a second.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from scoring.router import Memory, PromptKey, rank

from .messages import Report


@dataclass
class _Replica:
    """num_tokens, num_requests: of this ingress's open requests there. others: tokens and requests
    that the last report counted beyond them."""

    memory: Memory = field(default_factory=Memory)
    report: Report | None = None
    num_tokens: int = 0
    num_requests: int = 0
    others: tuple[int, int] = (0, 0)
    turn: int = 0


@dataclass
class _Open:
    """is_taken: the replica has it; before that it may be sent to another, or to none."""

    replica_id: str
    num_tokens: int
    is_taken: bool = False


class Fleet:
    """Knows replicas by their names. Any thread may call."""

    def __init__(self) -> None:
        self.max_requests: int | None = None
        """That a replica takes, running and waiting; None while that is not known."""
        self._lock = threading.Lock()
        self._replicas: dict[str, _Replica] = {}
        self._open: dict[str, _Open] = {}
        self._turn = 0
        self._on_change: Callable[[], None] = lambda: None

    def on_change(self, tell: Callable[[], None]) -> None:
        """Call this, in whatever thread, when a replica has come, gone or reported."""
        self._on_change = tell

    @property
    def reports(self) -> dict[str, Report | None]:
        """Of every replica that takes requests; None of one that has not reported yet."""
        with self._lock:
            return {name: replica.report for name, replica in self._replicas.items()}

    def update(self, reports: Mapping[str, Report | None]) -> None:
        """These replicas take requests, and no others."""
        with self._lock:
            self._replicas = {
                name: self._replicas.get(name) or _Replica(turn=self._turn) for name in reports
            }
            for name, report in reports.items():
                if report is not None and report != self._replicas[name].report:
                    _hear(self._replicas[name], report)
        self._on_change()

    def lost(self, replica_id: str) -> None:
        """This replica has died, which Ray noticed by a call, before its controller did. Nothing,
        if it is gone already."""
        with self._lock:
            replica = self._replicas.pop(replica_id, None)
        if replica is not None:
            self._on_change()

    @property
    def stranded(self) -> list[str]:
        """Sequences that no replica has taken, where there is none to take them."""
        with self._lock:
            if self._replicas:
                return []
            return [name for name, request in self._open.items() if not request.is_taken]

    def opened(self, sequence_id: str) -> None:
        """A sequence is about to be routed."""
        with self._lock:
            self._open[sequence_id] = _Open("", 0)

    def choose(self, sequence_id: str, prompt: PromptKey) -> list[str]:
        """The replicas that could take the sequence, the best first, to which it is counted from
        now on, if it is open still."""
        with self._lock:
            names, replicas = list(self._replicas), list(self._replicas.values())
            ranking = rank(
                [self._load(replica) for replica in replicas],
                [replica.memory.num_known(prompt) for replica in replicas],
                [replica.turn for replica in replicas],
            )
            # Those that are full come last: Ray will ask them, and they refuse.
            ranking += [index for index in range(len(names)) if index not in ranking]
            ranked = [names[index] for index in ranking]
            if ranked and sequence_id in self._open:
                self._assign(sequence_id, ranked[0], prompt.num_tokens)
                chosen = self._replicas[ranked[0]]
                chosen.memory.add(prompt)
                self._turn += 1
                chosen.turn = self._turn
            return ranked

    def went(self, sequence_id: str, replica_id: str, prompt: PromptKey) -> None:
        """The sequence was taken by this replica, its first choice or not."""
        with self._lock:
            request = self._open.get(sequence_id)
            if request is None:
                return
            if request.replica_id != replica_id:
                self._assign(sequence_id, replica_id, request.num_tokens)
                if (replica := self._replicas.get(replica_id)) is not None:
                    replica.memory.add(prompt)
            self._open[sequence_id].is_taken = True

    def replica_of(self, sequence_id: str) -> str | None:
        """Where an open sequence is, or is about to be."""
        with self._lock:
            request = self._open.get(sequence_id)
            return None if request is None else request.replica_id

    def num_open(self, replica_id: str) -> int:
        """This ingress's sequences there, though the replica may take no more."""
        with self._lock:
            return sum(request.replica_id == replica_id for request in self._open.values())

    def grew(self, sequence_id: str) -> None:
        """A token of the sequence has come."""
        with self._lock:
            if (request := self._open.get(sequence_id)) is not None:
                request.num_tokens += 1
                if (replica := self._replicas.get(request.replica_id)) is not None:
                    replica.num_tokens += 1

    def ended(self, sequence_id: str) -> None:
        with self._lock:
            self._release(sequence_id)

    def _assign(self, sequence_id: str, replica_id: str, num_tokens: int) -> None:
        self._release(sequence_id)
        self._open[sequence_id] = _Open(replica_id, num_tokens)
        if (replica := self._replicas.get(replica_id)) is not None:
            replica.num_tokens += num_tokens
            replica.num_requests += 1

    def _release(self, sequence_id: str) -> None:
        request = self._open.pop(sequence_id, None)
        if request is not None and (replica := self._replicas.get(request.replica_id)) is not None:
            replica.num_tokens -= request.num_tokens
            replica.num_requests -= 1

    def _load(self, replica: _Replica) -> int | None:
        """In tokens; None where one more request would be refused."""
        if replica.report is not None and not replica.report.state.is_serving:
            return None
        tokens, requests = replica.others
        if self.max_requests is not None and replica.num_requests + requests >= self.max_requests:
            return None
        return replica.num_tokens + tokens


def _hear(replica: _Replica, report: Report) -> None:
    """What the report counts beyond ours is others'; it may be what has just ended here, too, until
    the next one."""
    before, replica.report = replica.report, report
    replica.others = (
        max(0, report.num_tokens - replica.num_tokens),
        max(0, report.num_requests - replica.num_requests),
    )
    news = (report.chunks, report.pictures)
    if before is None or news != (before.chunks, before.pictures):
        replica.memory.learn(*news)


# By application and deployment. Ray makes the router, in each process that has a handle, and keeps
# it to itself: here router and engine client meet.
_fleets: dict[str, Fleet] = {}


def fleet_of(app_name: str, deployment: str) -> Fleet:
    """The replicas as this process's router sees them."""
    return _fleets.setdefault(f"{app_name}#{deployment}", Fleet())
