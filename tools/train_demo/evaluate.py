"""Marks: unseen drawings, asked through the real engine.

The drawings are of another seed, in typefaces, sizes and words that training never shows. An answer
is right if it is the expected sentence, letter by letter.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from model_config import card_for, from_checkpoint
from scoring.engine import Engine
from scoring.engine_builder import build_engine
from scoring.engine_config import EngineConfig
from scoring.prompt import ChatImage, ChatMessage, PromptBuilder, load_tokenizer
from scoring.sequence import SamplingParams, Sequence

from .canvas import Exchange
from .drawings import EVALUATION, draw_one
from .small_talk import asked_about_none, small_talk, without_picture

_SEED = "evaluation"
_QUESTIONS_OF_A_DRAWING = 4
_MAX_TOKENS = 128
_AT_A_TIME = 50
GOALS = {
    "color": 97,
    "shape": 97,
    "count": 97,
    "number of 4 digits": 90,
    "word": 90,
    "chart": 90,
}


@dataclass
class Marks:
    """Of one category."""

    right: int = 0
    asked: int = 0

    @property
    def percent(self) -> float:
        return 100 * self.right / self.asked


class Model:
    """A checkpoint behind the engine, greedy."""

    def __init__(self, checkpoint: Path) -> None:
        config = from_checkpoint(checkpoint)
        self._tokenizer = load_tokenizer(checkpoint)
        self._prompts = PromptBuilder(self._tokenizer, card_for(config.name_or_path), config.vision)
        self._engine: Engine = build_engine(
            EngineConfig(
                checkpoint,
                kv_cache_bytes=1 << 30,
                # Nobody waits for a token here: prompts come whole.
                prompt_share=512,
                crops_share=17.0,
            ),
            lambda done, total: None,
        )

    def answers(self, conversations: Iterable[list[ChatMessage]]) -> list[str]:
        params = SamplingParams(
            max_tokens=_MAX_TOKENS, temperature=0.0, eos_token_ids=self._prompts.stop_token_ids
        )
        answers: dict[str, list[int]] = {}
        for number, messages in enumerate(conversations):
            prompt = self._prompts.build(messages)
            sequence = Sequence(str(number), prompt.token_ids, params, prompt.images)
            answers[sequence.id] = []
            self._engine.add(sequence)
        while self._engine.has_work:
            for output in self._engine.step():
                if output.error is not None:
                    raise RuntimeError(output.error)
                if output.token_id is not None:
                    answers[output.sequence_id].append(output.token_id)
        backend = self._tokenizer.backend_tokenizer
        return [backend.decode(token_ids) for token_ids in answers.values()]


def evaluate(checkpoint: Path, num_drawings: int) -> tuple[dict[str, Marks], list[str]]:
    """→ marks by category, and what was answered wrong, one line each."""
    model, rng = Model(checkpoint), random.Random(_SEED)
    marks: dict[str, Marks] = {}
    wrong = []
    for first in range(0, num_drawings, _AT_A_TIME):
        asked = []
        for _ in range(min(_AT_A_TIME, num_drawings - first)):
            asked += _questions(rng)
        answers = model.answers(messages for messages, _ in asked)
        for (_, exchange), answer in zip(asked, answers, strict=True):
            mark = marks.setdefault(exchange.category, Marks())
            mark.asked += 1
            mark.right += answer == exchange.answer
            if answer != exchange.answer:
                wrong.append(
                    f"[{exchange.category}] {exchange.question} → {answer} ({exchange.answer})"
                )
    return marks, wrong


def _questions(rng: random.Random) -> list[tuple[list[ChatMessage], Exchange]]:
    """Of one drawing, and one where there is none; each in a chat of its own."""
    drawing = draw_one(rng, EVALUATION)
    image = ChatImage(drawing.image)
    number = min(_QUESTIONS_OF_A_DRAWING, len(drawing.exchanges))
    found = [
        ([ChatMessage("user", exchange.question, (image,))], exchange)
        for exchange in rng.sample(drawing.exchanges, number)
    ]
    without = rng.choice(
        (
            small_talk(rng),
            without_picture(asked_about_none(rng)),
            without_picture(found[0][1].question),
        )
    )
    return [*found, ([ChatMessage("user", without.question)], without)]


def goals_missed(marks: dict[str, Marks]) -> list[str]:
    """The categories that are below their goals, among those that were asked about."""
    return [name for name, goal in GOALS.items() if name in marks and marks[name].percent < goal]


def report(marks: dict[str, Marks]) -> str:
    """A Markdown table."""
    lines = ["| category | right | asked | % | goal |", "|---|---:|---:|---:|---:|"]
    for category in sorted(marks, key=lambda name: (name not in GOALS, name)):
        mark, goal = marks[category], GOALS.get(category)
        lines.append(
            f"| {category} | {mark.right} | {mark.asked} | {mark.percent:.1f} | "
            f"{f'≥ {goal}' if goal else ''} |"
        )
    return "\n".join(lines)
