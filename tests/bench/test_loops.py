"""Who is asked when: closed and open loops against a server that notes arrivals."""

import asyncio
import time
from itertools import pairwise

import pytest

from benchmark.load.endpoint import Endpoint
from benchmark.load.limits import DeviceRates
from benchmark.load.loops import Stop, arrivals
from benchmark.load.run import Load, Plan, Run
from benchmark.load.terminal import TerminalProgress
from benchmark.load.workload import Workload

from .asking import SHORT, talk
from .scripted_server import HEAD, answer, done, event, scripted_server, whole


def test_a_closed_loop_keeps_exactly_so_many_requests_running():
    with scripted_server(lambda body: answer(2, first_s=0.05)) as server:
        found = talk(server.url, "closed_loop", 3, Stop(num_requests=12))

    assert (len(found.answers), len(server.bodies)) == (12, 12)
    assert (server.max_running, found.max_running) == (3, 3)


def test_a_closed_loop_stops_asking_when_its_time_is_up_and_waits_for_answers():
    with scripted_server(lambda body: answer(2, first_s=0.2)) as server:
        found = talk(server.url, "closed_loop", 2, Stop(duration_s=0.3))

    assert [a.error for a in found.answers] == [None] * len(server.bodies)
    assert max(a.start for a in found.answers) - min(a.start for a in found.answers) < 1.0
    assert len(found.answers) >= 2


def test_an_open_loop_waits_for_nobodys_answer():
    """Ten arrivals within a moment, at a server that answers none before 1 s has passed."""
    with scripted_server(lambda body: [HEAD, 1.0, event("a"), done(1)]) as server:
        found = talk(server.url, "open_loop", 1000.0, Stop(num_requests=10))

    assert len(found.answers) == 10
    assert max(server.arrivals) < min(a.times[0] for a in found.answers)
    assert (server.max_running, found.max_running) == (10, 10)


def test_an_open_loop_asks_nobody_before_the_times_of_its_seed():
    stop = Stop(num_requests=8)
    with scripted_server(lambda body: answer(1)) as server:
        begin = time.perf_counter()
        found = talk(server.url, "open_loop", 40.0, stop)

    due = list(arrivals(40.0, stop, seed=1))
    sent = sorted(answer.start for answer in found.answers)
    assert len(sent) == 8
    assert all(begin + d <= s for d, s in zip(due, sent, strict=True))
    assert all(answer.late_s >= 0 for answer in found.answers)


def test_each_round_has_arrivals_of_its_own():
    """A median over rounds was one over the same draw, again and again."""
    stop = Stop(num_requests=5)
    first, second = (list(arrivals(50.0, stop, seed=3, round_number=n)) for n in (1, 2))

    assert first != second
    assert second == list(arrivals(50.0, stop, seed=3, round_number=2))


def test_a_measurement_of_two_rounds_draws_twice():
    stop, rate = Stop(num_requests=8), 20.0
    with scripted_server(lambda body: answer(1)) as server:
        endpoint = Endpoint(f"{server.url}/chat/completions", "azure")
        load, rates = Load("open", rate), DeviceRates(None, None, "not asked for")
        plan = Plan(endpoint, SHORT, (load,), stop, 2, 0, 10.0, None, None, rates)
        asyncio.run(Run(plan, TerminalProgress()).measure())
    second = server.arrivals[8:]
    gaps = [later - earlier for earlier, later in pairwise(second)]

    def distance(round_number: int) -> float:
        due = arrivals(rate, stop, SHORT.seed, round_number)
        return sum(abs(a - (d - c)) for a, (c, d) in zip(gaps, pairwise(due), strict=True))

    assert distance(2) < distance(1)


def test_arrivals_are_poissons():
    """The mean gap is 1/rate, and so is the standard deviation; another seed is another run."""
    times = list(arrivals(50.0, Stop(duration_s=200.0), seed=3))
    gaps = [later - earlier for earlier, later in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5

    assert mean == pytest.approx(1 / 50, rel=0.05)
    assert deviation == pytest.approx(1 / 50, rel=0.05)
    assert times[-1] <= 200.0
    assert times == list(arrivals(50.0, Stop(duration_s=200.0), seed=3))
    assert times[:5] != list(arrivals(50.0, Stop(num_requests=5), seed=4))
    assert len(list(arrivals(50.0, Stop(num_requests=5, duration_s=200.0), seed=4))) == 5


def test_a_conversation_goes_on_with_what_was_answered():
    with scripted_server(lambda body: answer(2)) as server:
        workload = Workload("multi-turn", 32, 8, turns=3, image_px=64, seed=1)
        found = talk(server.url, "closed_loop", 1, Stop(num_requests=6), workload=workload)

    assert len(found.answers) == 6
    first, second, third, fourth, *_ = [body["messages"] for body in server.bodies]
    assert [len(first), len(second), len(third), len(fourth)] == [1, 3, 5, 1]
    assert second[:1] == first
    assert second[1] == {"role": "assistant", "content": "t0 t1 "}
    assert third[:3] == second


def test_an_error_ends_its_conversation_and_no_request_is_lost():
    scripts = [answer(1), whole("429 Too Many Requests", b"")]
    with scripted_server(lambda body: scripts.pop(0) if scripts else answer(1)) as server:
        workload = Workload("multi-turn", 32, 8, turns=2, image_px=64, seed=1)
        found = talk(server.url, "closed_loop", 1, Stop(num_requests=4), workload=workload)

    assert [a.error for a in found.answers] == [None, "status 429", None, None]
    assert [len(body["messages"]) for body in server.bodies] == [1, 3, 1, 3]


def test_the_time_limit_of_a_request_does_not_hold_up_the_loop():
    start = time.monotonic()
    with scripted_server(lambda body: [HEAD, 60.0]) as server:
        found = talk(server.url, "closed_loop", 4, Stop(num_requests=8), timeout_s=0.2)

    assert [a.error for a in found.answers] == ["timeout"] * 8
    assert time.monotonic() - start < 30
