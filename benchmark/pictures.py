"""What the prefix and feature caches save: a second turn, and many users, about one picture."""

import time
from pathlib import Path

import numpy as np
from PIL import Image

from model_config import card_for, from_checkpoint
from scoring.engine import Engine
from scoring.prompt import ChatImage, ChatMessage, Prompt, PromptBuilder, load_tokenizer
from scoring.sequence import TokenOutput

from .report import Measurement, Report, spread
from .systems import run_to_end, to_sequence

_SECTION = "prefix"
_SIDE = 1344  # pixels: 4 × 4 crops and the global view, about 2,500 tokens
_ANSWER, _USERS = 16, 8
_GOAL_SECOND_TURN = 0.05


class PicturePrompts:
    """Conversations about random pictures for one checkpoint."""

    def __init__(self, checkpoint: Path) -> None:
        config = from_checkpoint(checkpoint)
        self.tokenizer = load_tokenizer(checkpoint)
        self._builder = PromptBuilder(self.tokenizer, card_for(config.name_or_path), config.vision)

    def build(self, picture: Image.Image, *turns: str) -> Prompt:
        """turns: the user's first text, the answer, the user's next, …"""
        messages = [
            ChatMessage(
                role="assistant" if number % 2 else "user",
                text=text,
                images=() if number else (ChatImage(picture),),
            )
            for number, text in enumerate(turns)
        ]
        return self._builder.build(messages)


def random_picture(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (_SIDE, _SIDE, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def measure_prefix(report: Report, engine: Engine, prompts: PicturePrompts, rounds: int) -> None:
    laps = [_two_turns(engine, prompts, seed) for seed in range(rounds + 1)][1:]
    first, second, ratio, ratio_in_engine = (list(column) for column in zip(*laps, strict=True))
    print("\nsecond turn about the same picture, time to the first token with the prompt's making")
    print(f"first {spread(first, 0)} ms, second {spread(second, 0)} ms: ", end="")
    print(f"{spread(ratio, 3)} of the first; in the engine alone {spread(ratio_in_engine, 3)}")
    report.add(Measurement(_SECTION, "first turn", first, "ms", None, False))
    report.add(Measurement(_SECTION, "second turn", second, "ms", None, False))
    report.add(Measurement(_SECTION, "second turn over first", ratio, "", _GOAL_SECOND_TURN, False))
    report.add(Measurement(_SECTION, "the same, in the engine", ratio_in_engine, "", None, False))
    encoded, seconds, before_picture, shared = _users(engine, prompts)
    print(
        f"{_USERS} users about one picture: encoded {encoded}×, all first tokens after "
        f"{seconds:.1f} s; another picture under the same text shares {shared} tokens with it, "
        f"{before_picture} lie before the picture",
        flush=True,
    )
    name = f"encodings for {_USERS} users of one picture"
    report.add(Measurement(_SECTION, name, [encoded], "", 1, False))
    name = "tokens shared with another picture"
    report.add(Measurement(_SECTION, name, [shared], "", before_picture, False))


def _two_turns(engine: Engine, prompts: PicturePrompts, seed: int) -> tuple[float, ...]:
    """→ the first turn's TTFT and the second's in ms, second ÷ first, and that in the engine."""
    picture = random_picture(seed)
    question = "What is in this picture?"
    made, waited, outputs = _first_token(engine, prompts, picture, question)
    answer = prompts.tokenizer.decode([output.token_id or 0 for output in outputs])
    turns = (question, str(answer), "And what is in its upper left corner?")
    made_2, waited_2, _ = _first_token(engine, prompts, picture, *turns)
    first, second = made + waited, made_2 + waited_2
    return first * 1e3, second * 1e3, second / first, waited_2 / waited


def _first_token(
    engine: Engine, prompts: PicturePrompts, picture: Image.Image, *turns: str
) -> tuple[float, float, list[TokenOutput]]:
    """→ seconds to make the prompt, seconds from there to the first token, the whole answer."""
    start = time.perf_counter()
    prompt = prompts.build(picture, *turns)
    made = time.perf_counter()
    engine.add(to_sequence(prompt.token_ids, _ANSWER, prompt.images))
    outputs: list[TokenOutput] = []
    first = made
    while engine.has_work:
        outputs += engine.step()
        if outputs and first == made:
            first = time.perf_counter()
    return made - start, first - made, outputs


def _users(engine: Engine, prompts: PicturePrompts) -> tuple[int, float, int, int]:
    """→ encodings that eight users of one picture cost, seconds until all have their first token,
    the tokens before the picture, and what the same text with another picture finds cached."""
    asked = [
        prompts.build(random_picture(100), f"Question {user}: what is in this picture?")
        for user in range(_USERS)
    ]
    encoded = engine.stats().num_pictures_encoded
    start = time.perf_counter()
    run_to_end(engine, [to_sequence(prompt.token_ids, 1, prompt.images) for prompt in asked])
    seconds = time.perf_counter() - start
    encoded = engine.stats().num_pictures_encoded - encoded
    other = prompts.build(random_picture(101), "Question 0: what is in this picture?")
    sequence = to_sequence(other.token_ids, 1, other.images)
    (output,) = run_to_end(engine, [sequence])[sequence.id]
    return encoded, seconds, other.images[0].start, output.num_cached
