"""What the drawings ask, and what they say is right."""

import random
import re

from tools.train_demo.drawings import TRAINING
from tools.train_demo.shapes import shapes_drawing

RELATION = re.compile(r"the (\w+ \w+) is (.+) the (\w+ \w+)\.")


def test_no_is_said_to_the_reverse_of_what_is_so_and_yes_to_what_is() -> None:
    rng = random.Random(0)
    said = set()
    for _ in range(300):
        for exchange in shapes_drawing(rng, TRAINING).exchanges:
            yes_or_no, _, statement = exchange.answer.partition(", ")
            if exchange.category != "position" or not statement:
                continue
            first, relation, second = RELATION.fullmatch(statement).groups()
            asked = exchange.question == f"Is the {first} {relation} the {second}?"
            assert asked == (yes_or_no == "Yes"), exchange
            said.add(yes_or_no)
    assert said == {"Yes", "No"}
