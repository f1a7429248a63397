"""Leaving early is normal: whoever hangs up, at whatever moment, frees what he held at once."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from .event_streams import opened, stream
from .parrot import Parrot, ParrotServer, parrot_server
from .raw_http import connect, hang_up_hard
from .running_server import Endpoint, RunningServer, assert_well, user, wait_until

STEP_S = 0.2
LONG = "A long text that nobody will hear to its end. " * 4


@pytest.fixture
def slow(demo_checkpoint: Path) -> Iterator[ParrotServer]:
    """One that needs STEP_S for a token, has two seats, and counts its steps."""
    parrot = Parrot(demo_checkpoint, step_s=0.0)
    with parrot_server(demo_checkpoint, parrot, max_num_seqs=2, drain_s=0) as server:
        parrot.step_s = STEP_S
        yield server


def chat_request(content: str, *, streamed: bool) -> bytes:
    body = json.dumps({"messages": [user(content)], "stream": streamed, "temperature": 0}).encode()
    head = (
        "POST /chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    )
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize("goodbye", ["close", "reset"])
@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
def test_leaving_frees_everything_within_two_steps(
    slow: ParrotServer, streamed: bool, goodbye: str
) -> None:
    connection = connect(slow)
    before = slow.parrot.num_steps
    connection.sendall(chat_request(LONG, streamed=streamed))
    wait_until(lambda: slow.parrot.num_steps >= before + 3, 20, "three steps have begun")
    if goodbye == "close":
        connection.close()
    else:
        hang_up_hard(connection)
    left_at = slow.parrot.num_steps
    wait_until(slow.is_idle, 10, "the sequence is gone")
    assert slow.parrot.num_steps - left_at <= 2
    time.sleep(2 * STEP_S)
    assert slow.parrot.num_steps - left_at <= 2  # nothing goes on in secret
    slow.parrot.step_s = 0.0
    assert_well(slow)


def test_half_a_goodbye_is_one(slow: ParrotServer) -> None:
    """A client that will send no more and keeps reading is taken to have left: servers under a
    load balancer see no other sign. What matters is that nothing is held."""
    before = slow.parrot.num_steps
    with connect(slow) as connection:
        connection.sendall(chat_request(LONG, streamed=True))
        wait_until(lambda: slow.parrot.num_steps >= before + 2, 20, "two steps have begun")
        connection.shutdown(socket.SHUT_WR)
        wait_until(slow.is_idle, 10, "the sequence is gone")
    assert slow.parrot.num_steps - before < 10
    slow.parrot.step_s = 0.0
    assert_well(slow)


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
def test_leaving_the_queue_frees_the_place(slow: ParrotServer, streamed: bool) -> None:
    """Both seats are taken; a third waits, leaves, and is never computed."""
    with opened(slow, LONG) as first, opened(slow, LONG) as second:
        first.take(1)
        second.take(1)
        connection = connect(slow)
        connection.sendall(chat_request("I wait", streamed=streamed))
        wait_until(lambda: slow.state()["waiting"] == 1, 10, "the third waits")
        connection.close()
        wait_until(lambda: slow.state()["waiting"] == 0, 10, "the third is gone")
        assert slow.state()["running"] == 2
    wait_until(slow.is_idle, 10, "all are gone")
    ids = {sequence_id for rows in slow.parrot.rows_of_steps for sequence_id in rows}
    assert len(ids) == 3  # the golden one and the two
    slow.parrot.step_s = 0.0
    assert_well(slow)


def test_leaving_before_the_prompt_is_ready_costs_no_step(slow: ParrotServer) -> None:
    """Hang up with the request's last byte: it may or may not reach the engine, but not stay."""
    for _ in range(5):
        connection = connect(slow)
        connection.sendall(chat_request(LONG, streamed=True))
        hang_up_hard(connection)
    wait_until(slow.is_idle, 10, "the sequences are gone")
    time.sleep(2 * STEP_S)
    assert slow.is_idle()
    slow.parrot.step_s = 0.0
    assert_well(slow)


def test_others_do_not_notice_who_leaves(slow: ParrotServer) -> None:
    slow.parrot.step_s = 0.05
    staying: list[str] = []

    def stay() -> None:
        staying.append(stream(slow, "I hear it all.").text)

    thread = threading.Thread(target=stay)
    thread.start()
    for _ in range(3):
        with opened(slow, LONG) as leaving:
            leaving.take(2)
    thread.join()
    assert staying == ["I hear it all."]
    slow.parrot.step_s = 0.0
    assert_well(slow)


def leave_midway(server: Endpoint, prompt: str = "golden") -> None:
    with opened(server, prompt, max_tokens=2000) as leaving:
        leaving.take(3)


def leave_while_waiting(server: Endpoint, prompt: str = "golden") -> None:
    """A whole answer that is not waited for."""
    with pytest.raises(httpx.ReadTimeout), server.client(timeout=0.2) as client:
        client.post(
            "/chat/completions",
            json={"messages": [user(prompt)], "temperature": 0, "max_tokens": 2000},
        )


@pytest.mark.parametrize("leave", [leave_midway, leave_while_waiting])
def test_the_real_engine_is_idle_soon_after(
    demo: RunningServer, leave: Callable[[Endpoint], None]
) -> None:
    leave(demo)
    wait_until(demo.is_idle, 2.0, "idle")
    assert_well(demo)


def test_streams_of_the_real_engine_do_not_notice_who_leaves(demo: RunningServer) -> None:
    prompt = "golden"
    solo = demo.text(prompt, max_tokens=400)
    with ThreadPoolExecutor(8) as threads:
        staying = [threads.submit(stream, demo, prompt, max_tokens=400) for _ in range(3)]
        leaving = [threads.submit(leave_midway, demo, prompt) for _ in range(5)]
        for future in leaving:
            future.result()
        assert [future.result().text for future in staying] == [solo] * 3
    assert_well(demo)


def test_a_storm_of_connections_leaves_nothing_behind(demo: RunningServer) -> None:
    assert_well(demo)
    files = demo.resources.num_fds()
    for number in range(200):
        connection = connect(demo)
        if number % 2:
            connection.sendall(chat_request("hi", streamed=bool(number % 4))[: number * 3])
        hang_up_hard(connection) if number % 3 else connection.close()
    wait_until(lambda: demo.resources.num_fds() <= files + 1, 10, "the connections are closed")
    assert_well(demo)


def test_no_task_is_left_whoever_left_and_however(demo_checkpoint: Path) -> None:
    parrot = Parrot(demo_checkpoint, step_s=0.002)
    with parrot_server(demo_checkpoint, parrot, max_num_seqs=4) as server:
        wait_until(lambda: len(server.tasks()) <= 3, 10, "only the server's own tasks are there")
        before = server.tasks()
        with ThreadPoolExecutor(12) as threads:
            for number in range(36):
                if number % 3 == 0:
                    threads.submit(stream, server, f"I stay, number {number}")
                elif number % 3 == 1:
                    threads.submit(leave_midway, server, LONG)
                else:
                    threads.submit(leave_while_waiting, server, LONG)
        wait_until(lambda: server.tasks() == before, 10, f"the tasks are {before} again")
        assert_well(server)
