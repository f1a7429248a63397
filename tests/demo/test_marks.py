"""The weights in the package are those that the model card is about."""

import re
from pathlib import Path

import pytest

from scoring.demo_model import DEMO
from tools.train_demo import evaluate

from .conftest import in_matplotlibs_faces

_AT_LEAST = 93.0


def test_a_few_drawings_are_answered_as_often_as_the_card_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`make demo-eval` on a twentieth of its drawings, in typefaces that are at hand."""
    monkeypatch.setattr(evaluate, "EVALUATION", in_matplotlibs_faces(evaluate.EVALUATION))
    marks, wrong = evaluate.evaluate(DEMO, 50)
    right, asked = (sum(getattr(m, name) for m in marks.values()) for name in ("right", "asked"))
    assert asked > 200
    assert 100 * right / asked >= _AT_LEAST, wrong


def test_the_card_claims_no_goal_that_it_misses() -> None:
    card = Path(DEMO, "README.md").read_text()
    goals = re.findall(r"^\| ([\w ]+) \| (\d+) \| (\d+) \| ([\d.]+) \| ≥ (\d+) \|$", card, re.M)
    assert {name: int(goal) for name, *_, goal in goals} == evaluate.GOALS
    for name, right, asked, percent, goal in goals:
        assert float(percent) == round(100 * int(right) / int(asked), 1) >= int(goal), name


def test_a_category_below_its_goal_is_named() -> None:
    marks = {
        "color": evaluate.Marks(right=96, asked=100),
        "word": evaluate.Marks(right=90, asked=100),
        "size": evaluate.Marks(right=0, asked=5),
    }
    assert evaluate.goals_missed(marks) == ["color"]
