"""The simulated cluster, small: what routing must bring, and that a simulation can be trusted."""

from dataclasses import replace

import pytest

from benchmark.cluster.policies import POLICIES
from benchmark.cluster.replica import Sizes
from benchmark.cluster.simulation import Outcome, Plan, Simulation
from benchmark.cluster.trace import Habits, chats

from .simulated import TIMES

# Users who keep a replica's 32 places taken, and think little: all is short, so that seconds of a
# test show what minutes would.
_USERS, _SECONDS, _WARM_UP_S = 56, 25.0, 10.0
_HABITS = Habits(mean_think_s=3.0, max_turns=6, answer=(60, 0.4, 8, 200))
_PLAN = Plan(
    TIMES, Sizes(cache_tokens=131072), 8, 8 * _USERS, _SECONDS, _WARM_UP_S, num_ingresses=2
)


def run(num_replicas: int, seed: int = 0, **changes) -> Outcome:
    """With as many users for each replica."""
    plan = replace(_PLAN, num_replicas=num_replicas, seed=seed, **changes)
    number = num_replicas * plan.fold
    plan = replace(plan, num_users=number * _USERS)
    return Simulation(plan, chats(number, seed, _HABITS)).run()


@pytest.fixture(scope="module")
def eight() -> Outcome:
    return run(8)


def test_eight_replicas_keep_linear_throughput(eight: Outcome) -> None:
    one = [run(1, seed).tokens_per_s for seed in range(8)]
    assert eight.tokens_per_s >= 0.95 * sum(one)
    assert eight.busy > 0.9


def test_eight_replicas_find_what_one_giant_finds(eight: Outcome) -> None:
    giant = run(1, fold=8, policy="round robin")
    assert giant.hits > 0.5
    assert eight.hits >= 0.95 * giant.hits


def test_routing_by_load_alone_finds_less(eight: Outcome) -> None:
    for policy in set(POLICIES) - {"ours"}:
        assert run(8, policy=policy).hits < 0.8 * eight.hits, policy


def test_a_seed_gives_its_figures_again() -> None:
    one, same, other = (run(2, seed, seconds=15.0) for seed in (0, 0, 1))
    assert one == same
    assert one != other
