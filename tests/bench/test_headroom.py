"""How fast the load generator itself is, against the null server."""

import sys

import pytest

from benchmark.load import null_server as null_server_module
from benchmark.load.device_probe import measure_device
from benchmark.load.endpoint import Endpoint
from benchmark.load.headroom import ENOUGH, measure_headroom
from benchmark.load.limits import OfLimit
from benchmark.load.loops import Stop
from benchmark.load.null_server import NullServerError, null_server
from benchmark.load.run import Level, Load, Round
from benchmark.load.summary import Percentiles, summarize

from .asking import SHORT, ask, talk
from .scripted_server import answer, scripted_server
from .test_summary import answered, failed

NOWHERE = Endpoint("http://127.0.0.1:9/chat/completions", "azure")


def level(*answers) -> Level:
    found = Round(summarize(list(answers)), OfLimit(None, None, []), 2, 0.0, Percentiles.of([]))
    return Level(Load("closed", 2), [found])


def test_the_null_server_answers_as_long_as_it_is_told():
    with null_server(7) as url:
        answers = ask(url, times=3)
        together = talk(url, "closed_loop", 8, Stop(num_requests=40)).answers

    assert [(a.error, a.num_tokens, len(a.times)) for a in answers] == [(None, 7, 7)] * 3
    assert [a.error for a in together] == [None] * 40


def test_headroom_is_the_smaller_ratio_of_rates():
    """Two tokens in one second: whatever this machine is, it can ask a hundred times that."""
    slow = level(answered(0.0, 0.5, 1.0))
    found = measure_headroom([slow], SHORT, NOWHERE, seconds=0.3)

    assert found is not None
    assert (found.measured_requests_per_s, found.measured_output_tokens_per_s) == (1, 2)
    assert found.num_callers == 2
    ratios = (found.null_requests_per_s / 1, found.null_output_tokens_per_s / 2)
    assert found.headroom == pytest.approx(min(ratios))
    assert found.headroom >= 100
    assert found.is_enough


def test_a_rate_that_the_load_generator_barely_reaches_is_too_much():
    """A million answers in a second."""
    fast = level(answered(0.0, 1e-6, 1e-6))
    found = measure_headroom([fast], SHORT, NOWHERE, seconds=0.3)

    assert found is not None
    assert found.headroom < ENOUGH
    assert not found.is_enough


def test_where_nothing_was_answered_there_is_no_headroom():
    assert measure_headroom([level(failed(0.0, 1.0, "timeout"))], SHORT, NOWHERE, 0.1) is None


HOSTILE = "raise RuntimeError('a file of the user, not our package')"


def test_a_file_benchmark_py_where_the_user_stands_changes_nothing(tmp_path, monkeypatch):
    """It was run in our package's place, and the report said that the headroom was 0."""
    (tmp_path / "benchmark.py").write_text(HOSTILE)
    monkeypatch.chdir(tmp_path)

    found = measure_headroom([level(answered(0.0, 0.5, 1.0))], SHORT, NOWHERE, seconds=0.3)
    rates = measure_device(2.0)

    assert found is not None
    assert found.is_enough
    assert rates.bandwidth is not None
    assert rates.source.startswith("measured before the run")


def test_without_the_server_that_answers_at_once_there_is_no_figure(monkeypatch):
    monkeypatch.setattr(
        null_server_module, "child_module", lambda *words: [sys.executable, "-c", ""]
    )

    assert measure_headroom([level(answered(0.0, 0.5, 1.0))], SHORT, NOWHERE, 0.1) is None
    with pytest.raises(NullServerError), null_server(1):
        pass


def test_a_server_of_twenty_tokens_a_second_per_caller_is_measured_with_room():
    """A rate as models on CPUs have: four callers, a token each every 50 ms."""
    with scripted_server(lambda body: answer(4, gap_s=0.05)) as server:
        found = talk(server.url, "closed_loop", 4, Stop(num_requests=8))
    measured = level(*found.answers)
    headroom = measure_headroom([measured], SHORT, NOWHERE, seconds=0.3)

    assert headroom is not None
    assert headroom.is_enough
