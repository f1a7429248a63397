"""More requests than there is room for: some wait, the surplus is told to come back."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .conftest import CONTEXT
from .error_bodies import assert_error
from .event_streams import opened, stream
from .parrot import Parrot, parrot_server
from .running_server import RunningServer, assert_well, wait_until


def test_a_full_server_answers_429_and_when_to_come_back(small: RunningServer) -> None:
    with opened(small, "golden", max_tokens=CONTEXT) as running:
        running.take(1)
        for streamed in (False, True):
            refused = small.ask("hi", stream=streamed)
            assert_error(refused, 429, "too_many_requests")
            assert int(refused.headers["retry-after"]) >= 1
        wait_until(lambda: small.state()["running"] == 1, 5, "it runs on")
    assert_well(small)


def test_what_a_full_server_refuses_did_not_disturb_the_running_one(small: RunningServer) -> None:
    solo = small.text("golden", max_tokens=CONTEXT)
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(stream, small, "golden", max_tokens=CONTEXT)
        wait_until(lambda: small.state()["running"], 10, "it runs")
        statuses = {small.ask("hi", max_tokens=1).status_code for _ in range(10)}
        assert running.result().text == solo
        assert {429} <= statuses <= {200, 429}
    assert_well(small)


def test_exactly_the_surplus_is_refused(demo_checkpoint: Path) -> None:
    """One seat, two chairs to wait on, and three more callers."""
    parrot = Parrot(demo_checkpoint)
    with (
        parrot_server(demo_checkpoint, parrot, max_num_seqs=1, max_queued=2) as server,
        ThreadPoolExecutor(6) as threads,
    ):
        parrot.step_s = 0.06
        # They all come within the first one's first steps: its answer takes a second.
        responses = list(threads.map(server.ask, ["Twenty characters..."] * 6))
        parrot.step_s = 0.0
        statuses = sorted(response.status_code for response in responses)
        assert statuses == [200, 200, 200, 429, 429, 429]
        for response in responses:
            if response.status_code == 429:
                assert_error(response, 429, "too_many_requests")
        assert_well(server)


def test_long_prompts_fill_the_queue_before_many_do(demo_checkpoint: Path) -> None:
    parrot = Parrot(demo_checkpoint)
    with (
        parrot_server(demo_checkpoint, parrot, max_num_seqs=1, max_queued_tokens=700) as server,
        ThreadPoolExecutor(2) as threads,
    ):
        parrot.step_s = 0.05
        running = threads.submit(stream, server, "This one has the only seat")
        wait_until(lambda: server.state()["running"], 10, "it runs")
        waiting = threads.submit(stream, server, "x" * 600, max_tokens=2)
        wait_until(lambda: server.state()["waiting"], 10, "the next one waits")
        refused = server.ask("y" * 600, max_tokens=2)
        parrot.step_s = 0.0
        assert_error(refused, 429, "too_many_requests")
        assert int(refused.headers["retry-after"]) >= 1
        assert "700" in refused.json()["message"]
        assert running.result().text == "This one has the only seat"
        assert waiting.result().text == "xx"
        assert_well(server)


def test_who_waits_gets_his_answer(demo_checkpoint: Path) -> None:
    with (
        parrot_server(demo_checkpoint, Parrot(demo_checkpoint), max_num_seqs=2) as server,
        ThreadPoolExecutor(12) as threads,
    ):
        texts = [f"Number {i} of twelve." for i in range(12)]
        streams = list(threads.map(lambda text: stream(server, text), texts))
        assert [finished.text for finished in streams] == texts
        assert_well(server)


def test_blocks_that_run_out_delay_answers_and_change_none(demo_checkpoint: Path) -> None:
    """Eight contexts' worth of blocks for sixteen callers who each want three quarters of one."""
    with (
        parrot_server(demo_checkpoint, Parrot(demo_checkpoint), max_model_len=256) as server,
        ThreadPoolExecutor(16) as threads,
    ):
        texts = [f"{i:02d}" + "abcdefgh" * 11 for i in range(16)]
        answers = threads.map(lambda text: server.text(text, max_tokens=256), texts)
        assert list(answers) == texts
        assert_well(server)
