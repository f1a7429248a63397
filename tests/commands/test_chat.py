"""`phi3v chat` in a pseudo-terminal: a conversation, and what may go wrong in one."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scoring.scheduler import ScheduledRow

from ..http.parrot import Parrot, ParrotServer, parrot_server
from ..http.running_server import Endpoint, assert_well, wait_until
from .terminal import Terminal, in_terminal


@contextmanager
def chatting(server: Endpoint, *arguments: str) -> Iterator[Terminal]:
    """A chat that waits for its first question."""
    variables = {"PHI3V_API_KEY": server.api_key} if server.api_key else {}
    with in_terminal("chat", "--url", server.base_url, *arguments, **variables) as terminal:
        terminal.expect("Ctrl-D leaves")
        terminal.expect("> ")
        yield terminal


def without_colours(screen: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-z]", "", screen)


def ask(terminal: Terminal, text: str) -> None:
    """Type a question, see it and the parrot's answer, and what that took."""
    terminal.type(f"{text}\r")
    terminal.expect(f"{text}\r\n")
    terminal.expect(f"{text}\r\n")
    terminal.expect("tokens/s")
    terminal.expect("> ")


def test_a_conversation(parrot: ParrotServer) -> None:
    with chatting(parrot) as terminal:
        assert "phi3v-demo DEMO" in without_colours(terminal.screen)
        terminal.type("one two\r")
        terminal.expect("one two\r\n")  # what was typed
        terminal.expect("one two\r\n")  # the answer
        assert re.search(r"\d+ tokens, first after \d+ ms, ", terminal.expect("tokens/s"))
        terminal.expect("> ")
        terminal.type("\x04")
        assert terminal.exit_code() == 0


def test_leaving_by_name(parrot: ParrotServer) -> None:
    with chatting(parrot) as terminal:
        terminal.type("/exit\r")
        assert terminal.exit_code() == 0


class Prompts(Parrot):
    """Keeps the prompts it was given, pictures as negative numbers."""

    def __init__(self, checkpoint: Path) -> None:
        super().__init__(checkpoint)
        self.prompts: list[list[int]] = []

    def _next_token(self, sequence):
        if not sequence.num_output_tokens:
            self.prompts.append(list(sequence.token_ids[: sequence.num_prompt_tokens]))
        return super()._next_token(sequence)


@pytest.fixture(scope="module")
def prompts(demo_checkpoint: Path) -> Iterator[ParrotServer]:
    with parrot_server(demo_checkpoint, Prompts(demo_checkpoint), max_model_len=8192) as server:
        yield server


def num_pictures(prompt: list[int]) -> int:
    """How many different pictures its negative ids stand for."""
    return len({token for token in prompt if token < 0})


def test_history_and_the_picture_are_in_later_prompts_until_cleared(
    prompts: ParrotServer, png: Path
) -> None:
    kept = prompts.parrot.prompts
    with chatting(prompts) as terminal:
        terminal.type(f"/image {png}\r")
        terminal.expect("[a picture.png] > ")
        ask(terminal, "what is it")
        ask(terminal, "and now")
        terminal.type("/clear\r")
        terminal.expect("forgotten")
        ask(terminal, "and now")
    first, second, third = kept[-3:]
    assert num_pictures(first) == num_pictures(second) == 1
    assert second[: len(first)] == first
    assert num_pictures(third) == 0
    assert len(third) < len(second) - len(first)


def test_a_system_message_stands_first(prompts: ParrotServer) -> None:
    kept = prompts.parrot.prompts
    with chatting(prompts, "--system", "be brief") as terminal:
        ask(terminal, "hello")
        terminal.type("/system\r")
        terminal.expect("no system message")
        ask(terminal, "hello")
        terminal.type("/clear\r/system be very brief\r")
        terminal.expect("is set")
        ask(terminal, "hello")
    with_system, without, again = kept[-3:]
    assert with_system != without[: len(with_system)]
    assert len(again) > len(with_system)


def test_a_picture_may_be_named_as_terminals_name_it(parrot: ParrotServer, png: Path) -> None:
    escaped = str(png).replace(" ", "\\ ")
    key = str(parrot.api_key)
    with in_terminal(
        "chat", "--url", parrot.base_url, "--key", key, HOME=str(png.parent)
    ) as terminal:
        terminal.expect("> ")
        for named in (f"'{png}'", f'"{png}"', escaped, f"~/{png.name}"):
            terminal.type(f"/image {named}\r")
            terminal.expect("[a picture.png] > ")
            terminal.type("/image\r")
            terminal.expect("no picture goes")
            terminal.expect("> ")


def test_what_is_no_picture_is_one_clear_line_and_the_chat_goes_on(
    parrot: ParrotServer, tmp_path: Path
) -> None:
    (tmp_path / "text.png").write_text("secret")
    reasons = {
        tmp_path / "none.png": "No such file or directory",
        tmp_path: "Is a directory",
        tmp_path / "text.png": "is no picture of the formats JPEG, PNG",
        # These ended the chat with a stack trace.
        "~nobody-here/a.png": "No such file or directory",
        "n" * 300: "File name too long",
    }
    with chatting(parrot) as terminal:
        for named, reason in reasons.items():
            terminal.type(f"/image {named}\r")
            said = without_colours(terminal.expect("> "))
            assert reason in " ".join(said.split())  # long lines are wrapped
        terminal.type("/picture\r")
        terminal.expect("there is no command /picture")
        terminal.expect("> ")
        ask(terminal, "still there")
    assert "Traceback" not in terminal.screen


def test_a_path_is_completed(parrot: ParrotServer, png: Path) -> None:
    with chatting(parrot) as terminal:
        terminal.type(f"/image {png.parent}/a p\t")
        terminal.expect("a picture.png")
        terminal.type("\r")
        terminal.expect("[a picture.png] > ")


def test_ctrl_c_stops_the_answer_only_and_the_server_stops_computing(
    demo_checkpoint: Path,
) -> None:
    parrot = Parrot(demo_checkpoint, step_s=0.02)
    with parrot_server(demo_checkpoint, parrot) as server, chatting(server) as terminal:
        # Its answer would take 600 steps.
        terminal.type("begin" + "," * 600 + "end\r")
        terminal.expect("end\r\n")
        terminal.expect("begin,,,")
        terminal.press_ctrl_c()
        assert "end" not in terminal.expect("stopped")
        wait_until(server.is_idle, 5, "the server has let go of the answer")
        terminal.expect("> ")
        ask(terminal, "go on")
        assert_well(server)


def test_ctrl_c_at_the_prompt_leaves_nothing_behind(parrot: ParrotServer) -> None:
    with chatting(parrot) as terminal:
        terminal.type("half a question")
        terminal.expect("half a question")
        # Python's readline sleeps over a signal that comes between a key and its next wait.
        time.sleep(0.5)
        terminal.press_ctrl_c()
        terminal.expect("Ctrl-D leaves")
        terminal.expect("> ")
        ask(terminal, "whole")


def test_a_question_may_have_lines(prompts: ParrotServer) -> None:
    """By a backslash, and pasted: a terminal marks what is pasted."""
    with chatting(prompts) as terminal:
        terminal.type("upper\\\r")
        terminal.expect("… ")
        terminal.type("lower\r")
        terminal.expect("lower\r\n")
        terminal.expect("upper\r\nlower\r\n")
        terminal.expect("> ")
        terminal.type("\x1b[200~first\nsecond\x1b[201~")
        terminal.expect("second")
        terminal.type("\r")
        terminal.expect("first\r\nsecond\r\n")
    assert "Traceback" not in terminal.screen


def test_the_arrow_keys_bring_back_what_was_asked(parrot: ParrotServer) -> None:
    with chatting(parrot) as terminal:
        ask(terminal, "first thing")
        ask(terminal, "second thing")
        terminal.type("\x1b[A\x1b[A\r")
        terminal.expect("first thing\r\n")
        terminal.expect("tokens/s")


def test_what_the_model_says_cannot_steer_the_terminal(parrot: ParrotServer) -> None:
    """Titles, colours, cursor and clipboard are set by control characters."""
    evil = "\x1b]0;owned\x07 \x1b[31mred\x9b2J\x7f\u202edlrow"
    assert parrot.text(evil) == evil
    with chatting(parrot) as terminal:
        # Ctrl-V before each: readline would take them for keys.
        terminal.type("".join("\x16" + character for character in evil) + "\r")
        terminal.expect("\r\n")
        answer = terminal.expect("tokens/s").rpartition("\r\n")[0]
    assert "␛]0;owned␇ ␛[31mred\ufffd2J␡\ufffddlrow" in answer


def failing_at(number: int):
    """A fault of the answer's token of this number, for prompts of more than 40 tokens."""

    def fault(row: ScheduledRow) -> None:
        sequence = row.sequence
        if sequence.num_output_tokens == number and sequence.num_prompt_tokens > 40:
            raise RuntimeError("the device's secret")

    return fault


def test_a_failure_midway_is_one_line_and_the_turn_can_be_sent_again(
    demo_checkpoint: Path, png: Path
) -> None:
    parrot = Parrot(demo_checkpoint, fault=failing_at(6))
    with parrot_server(demo_checkpoint, parrot) as server, chatting(server) as terminal:
        terminal.type(f"/image {png}\r")
        terminal.expect("[a picture.png] > ")
        terminal.type("this will not come to its end\r")
        terminal.expect("(/retry sends it again)")
        terminal.expect("[a picture.png] > ")  # the picture is not lost
        parrot._fault = None
        terminal.type("/retry\r")
        terminal.expect("this will not come to its end\r\n")
        terminal.expect("tokens/s")
        terminal.type("/retry\r")
        terminal.expect("every question has got its answer")
    assert "Traceback" not in terminal.screen
    assert "secret" not in terminal.screen


def test_a_refused_question_is_one_line_and_the_chat_goes_on(parrot: ParrotServer) -> None:
    with chatting(parrot, "--temperature", "9") as terminal:
        terminal.type("hello\r")
        terminal.expect("422 temperature: ")
        terminal.expect("> ")
    with chatting(parrot) as terminal:
        terminal.type("/image http://127.0.0.1/a.png\r")
        terminal.expect("] > ")
        terminal.type("hello\r")
        terminal.expect("422 ")
        terminal.expect("fetches no image URLs")
        terminal.expect("] > ")
        terminal.type("/image\r")
        terminal.expect("no picture goes")
        terminal.expect("> ")
        ask(terminal, "hello")


def test_a_full_server_is_told_with_when_to_come_back(demo_checkpoint: Path) -> None:
    parrot = Parrot(demo_checkpoint)
    with (
        parrot_server(demo_checkpoint, parrot, requests_per_minute=3) as server,
        chatting(server) as terminal,
    ):
        for _ in range(8):
            terminal.type("hello\r")
            terminal.expect("hello\r\n")
            if "429" in terminal.expect("> "):
                break
    assert re.search(r"429 .*; try again in \d+ s \(/retry", terminal.screen)
    assert terminal.screen.count("try again") == 1


def test_a_server_that_goes_away_is_one_line(demo_checkpoint: Path) -> None:
    with parrot_server(demo_checkpoint, Parrot(demo_checkpoint)) as server:
        gone = in_terminal("chat", "--url", server.base_url)
        terminal = gone.__enter__()
        terminal.expect("> ")
    try:
        terminal.type("hello\r")
        terminal.expect(f"no server answers at {server.base_url}")
        terminal.expect("> ")
        terminal.type("/exit\r")
        assert terminal.exit_code() == 0
    finally:
        gone.__exit__(None, None, None)


def test_the_help_names_every_command(parrot: ParrotServer) -> None:
    with chatting(parrot) as terminal:
        terminal.type("/help\r")
        terminal.expect("may have several.")
        for command in ("/image", "/system", "/clear", "/retry", "/exit", "Ctrl-C"):
            assert command in terminal.screen
