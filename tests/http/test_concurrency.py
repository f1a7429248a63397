"""Many at once, on the tiny model with the genuine tokenizer: nobody's answer depends on who else
is there, and when all have gone nothing is left."""

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .event_streams import opened, stream
from .pictures import image_part
from .running_server import RunningServer, assert_well, wait_until

NUM_STREAMS = 16
WORDS = ("Why", "is", "the", "sky", "over", "a", "sea", "so", "blue", "when", "it", "was", "grey?")
PICTURES = ("small_37x23.png", "strip_2000x90.png", "rgba_300x200.png", "portrait_1069x1900.png")


@dataclass(frozen=True)
class Question:
    """One caller: what he asks, for how many tokens, and after how many he leaves, if he does."""

    content: Any
    max_tokens: int
    leaves_after: int | None


@pytest.fixture(scope="module")
def questions(shared: Path) -> list[Question]:
    """Half of them about pictures; every fifth caller leaves midway."""
    rng = random.Random(4)
    questions = []
    for number in range(NUM_STREAMS):
        text = f"{number}. " + " ".join(rng.choices(WORDS, k=rng.randint(1, 120)))
        content: Any = text
        if number % 2:
            picture = (shared / "golden" / "images" / PICTURES[number // 2 % 4]).read_bytes()
            part = image_part(picture)
            if number % 4 == 1:
                part["image_url"]["detail"] = "low"
            content = [{"type": "text", "text": text}, part]
        leaves_after = rng.randint(1, 8) if number % 5 == 0 else None
        questions.append(Question(content, rng.randint(10, 60), leaves_after))
    return questions


def answer(server: RunningServer, question: Question) -> str:
    """The text, as far as its caller listened."""
    if question.leaves_after is None:
        return stream(server, question.content, max_tokens=question.max_tokens).text
    with opened(server, question.content, max_tokens=question.max_tokens) as leaving:
        leaving.take(question.leaves_after)
        return leaving.text


@pytest.fixture(scope="module")
def alone(tiny: RunningServer, questions: list[Question]) -> list[str]:
    """What each hears by himself, one after the other."""
    return [answer(tiny, question) for question in questions]


def test_sixteen_at_once_each_hear_what_they_hear_alone(
    tiny: RunningServer, questions: list[Question], request: pytest.FixtureRequest
) -> None:
    assert sum(question.leaves_after is not None for question in questions) == 4
    with ThreadPoolExecutor(NUM_STREAMS) as threads:
        # Together first, so that no part of their prompts is cached yet.
        together = list(threads.map(lambda question: answer(tiny, question), questions))
    assert_well(tiny)
    assert together == request.getfixturevalue("alone")
    assert_well(tiny)


def test_afterwards_no_thread_and_no_file_is_left(
    tiny: RunningServer, questions: list[Question]
) -> None:
    def storm() -> None:
        with ThreadPoolExecutor(NUM_STREAMS) as threads:
            list(threads.map(lambda question: answer(tiny, question), questions))
        assert_well(tiny)

    server, engines = tiny.resources, tiny.resources.children(recursive=True)

    def held() -> list[int]:
        """Files of the server; files and threads of its engine's process, if it has one."""
        return [server.num_fds(), *(n for e in engines for n in (e.num_fds(), e.num_threads()))]

    def is_back() -> bool:
        connections = [connection.status for connection in server.net_connections("tcp")]
        same = all(now <= then for now, then in zip(held(), before, strict=True))
        return same and connections == ["LISTEN"]

    storm()
    before, num_threads = held(), server.num_threads()
    for _ in range(4):
        storm()
    # A client's goodbye may be seen a moment later.
    wait_until(is_back, 5, f"files and threads are {before} again, and no connection is left")
    # The server's own worker threads come and go between requests; they are fewer than callers.
    assert server.num_threads() <= num_threads + NUM_STREAMS


def test_whole_answers_at_once_equal_those_alone(
    tiny: RunningServer, questions: list[Question], alone: list[str]
) -> None:
    """The same questions, unstreamed, and the first of them twice at the same time."""
    asked = [index for index in range(NUM_STREAMS) if questions[index].leaves_after is None]
    asked += asked[: NUM_STREAMS - len(asked)]

    def text(index: int) -> str:
        return tiny.text(questions[index].content, max_tokens=questions[index].max_tokens)

    with ThreadPoolExecutor(NUM_STREAMS) as threads:
        assert list(threads.map(text, asked)) == [alone[index] for index in asked]
    assert_well(tiny)


def test_the_log_has_a_line_for_each_and_no_words_of_theirs(
    tiny: RunningServer, questions: list[Question]
) -> None:
    tiny.text(questions[0].content, max_tokens=2)
    for question in questions:
        text = (
            question.content if isinstance(question.content, str) else question.content[0]["text"]
        )
        assert text not in tiny.log
    assert "base64" not in tiny.log
