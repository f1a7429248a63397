"""A picture goes in, and the right words come out: the page with the model of `make serve`."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from ..http.running_server import RunningServer, assert_well, ready_server
from .talk import answer_to, visit


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    directory = tmp_path_factory.mktemp("served")
    variables = {"HF_HOME": str(directory / "hub")}
    with ready_server(directory / "log", None, variables=variables) as server:
        yield server


def test_the_page_says_that_it_is_a_demo(page: Page, served: RunningServer) -> None:
    visit(page, served.base_url)
    expect(page.locator("#notice")).to_contain_text("DEMO")


@pytest.mark.parametrize(
    ("sample", "answers"),
    [
        (
            "How many shapes are there?",
            {"How many shapes are there?": "There are 4 shapes."},
        ),
        ("What number is this?", {"What number is this?": "The number is 8529."}),
        (
            "Which bar is the highest?",
            {"Which bar is the highest?": "The highest bar is Q1.",
             "What is the value of Q4?": "The value of Q4 is 34."},
        ),
    ],
)  # fmt: skip
def test_a_sample_is_answered_right(
    page: Page, served: RunningServer, sample: str, answers: dict[str, str]
) -> None:
    visit(page, served.base_url)
    page.get_by_role("button", name=sample).click()
    expect(page.locator("#picture-facts")).to_contain_text("tokens")
    for question, words in answers.items():
        expect(answer_to(page, question)).to_have_text(words)
    assert_well(served)
