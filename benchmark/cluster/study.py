"""What a study asks: how near many replicas come to so many times one, and to one giant.

All are kept busy: each replica has so many users that, beside those who think, a quarter more ask
than it has places for. Linear is the throughput of N replicas with N times the users over N times
that of one. The giant has the cache, the places and the speed of N.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import fmean

from .replica import Sizes
from .simulation import Outcome, Plan, Simulation
from .step_times import StepTimes
from .trace import Habits, chats

OURS, GIANT = "ours", "one giant"
# Requests that are open, over the places of a replica; the others wait.
_OPEN = 1.25
# Of a replica's requests, in the measured part and before; and how many replicas' worth of traces a
# point is the mean of.
_REQUESTS, _WARM_UP_REQUESTS = 150, 150
_WARM_UP_THOUGHTS = 6  # times that a user thinks, until as many come back as there will be
_NO_MORE = 1.05
_REPLICAS_PER_POINT = 8


@dataclass(frozen=True)
class Point:
    """linear: see above; of the giant, over one replica's. runs: of which these are the means."""

    num_replicas: int
    policy: str
    runs: int
    num_ingresses: int
    tokens_per_s: float
    linear: float
    hits: float
    busy: float
    idlest: float
    first_token_s: tuple[float, float]
    refused: float
    preemptions: float


@dataclass(frozen=True)
class Load:
    """num_users: for each replica. Seconds of the warm-up, and in all."""

    num_users: int
    warm_up_s: float
    seconds: float


class Study:
    def __init__(self, times: StepTimes, sizes: Sizes, habits: Habits, seed: int) -> None:
        self._times, self._sizes, self._habits, self._seed = times, sizes, habits, seed
        self.load = self._saturating()
        self._one = self._mean(1, OURS)

    def points(self, numbers: list[int], policies: list[str]) -> Iterator[Point]:
        """One after the other, for each takes a while."""
        for number in numbers:
            for policy in (GIANT, *policies):
                yield self._point(number, policy)

    def _point(self, number: int, policy: str) -> Point:
        outcomes = self._one if number == 1 else self._mean(number, policy)
        one = fmean(outcome.tokens_per_s for outcome in self._one)

        def mean(name: str) -> float:
            return fmean(getattr(outcome, name) for outcome in outcomes)

        return Point(
            num_replicas=number,
            policy=policy,
            runs=len(outcomes),
            num_ingresses=num_ingresses(number),
            tokens_per_s=mean("tokens_per_s"),
            linear=mean("tokens_per_s") / (number * one),
            hits=mean("hits"),
            busy=mean("busy"),
            idlest=min(outcome.idlest for outcome in outcomes),
            first_token_s=(
                fmean(outcome.first_token_s[0] for outcome in outcomes),
                fmean(outcome.first_token_s[1] for outcome in outcomes),
            ),
            refused=mean("refused"),
            preemptions=mean("preemptions"),
        )

    def _mean(self, number: int, policy: str) -> list[Outcome]:
        runs = max(1, _REPLICAS_PER_POINT // number)
        return [self._run(self.load, number, policy, self._seed + run) for run in range(runs)]

    def _run(self, load: Load, number: int, policy: str, seed: int) -> Outcome:
        plan = Plan(
            times=self._times,
            sizes=self._sizes,
            num_replicas=number,
            num_users=number * load.num_users,
            seconds=load.seconds,
            warm_up_s=load.warm_up_s,
            policy=policy,
            num_ingresses=num_ingresses(number),
            seed=seed,
        )
        if policy == GIANT:
            plan = replace(plan, num_replicas=1, policy="round robin", fold=number)
        return Simulation(plan, chats(number, seed, self._habits)).run()

    def _saturating(self) -> Load:
        """Twice the users again and again, until one replica answers no more for it. Then, by
        Little's law, as many as think meanwhile, and those who are to be there."""
        num_users, best = round(_OPEN * self._sizes.max_num_seqs), 0.0
        requests_per_s = 1 / (100 * self._times.shortest)
        while True:
            load = self._load(num_users, requests_per_s)
            requests_per_s = self._run(load, 1, OURS, self._seed).requests_per_s
            if requests_per_s < _NO_MORE * best:
                break
            num_users, best = 2 * num_users, requests_per_s
        best = max(best, requests_per_s)
        thinking = best * self._habits.mean_think_s
        return self._load(round(_OPEN * self._sizes.max_num_seqs + thinking), best)

    def _load(self, num_users: int, requests_per_s: float) -> Load:
        warm_up_s = max(
            _WARM_UP_REQUESTS / requests_per_s, _WARM_UP_THOUGHTS * self._habits.mean_think_s
        )
        return Load(num_users, warm_up_s, warm_up_s + _REQUESTS / requests_per_s)


def num_ingresses(num_replicas: int) -> int:
    """One for eight replicas, and two at least where there are several."""
    return 1 if num_replicas == 1 else max(2, num_replicas // 8)
