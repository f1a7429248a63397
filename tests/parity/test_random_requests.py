"""Thousands of requests that come, leave and push each other out: each gets its own answer."""

import random
from dataclasses import dataclass

import pytest

from model_config import load_card
from scoring.prompt import ChatImage, ChatMessage, PromptBuilder
from scoring.sequence import SamplingParams, Sequence

from .test_generation import assert_idle, generate, make_engine  # noqa: F401  # a fixture

NUM_REQUESTS = 2000


@dataclass(frozen=True)
class Question:
    """A conversation, and how many tokens are wanted of its greedy answer."""

    name: str
    messages: tuple[ChatMessage, ...]
    max_tokens: int


def questions(golden) -> list[Question]:
    """Texts with common beginnings, and pictures at one crop: some share one, some do not."""
    rng = random.Random(5)
    story = "Once upon a time a small server answered many users at once. "
    texts = [story * rng.randrange(4) + f"Question {n}?" for n in range(24)]
    found = [
        Question(f"text-{n}", (ChatMessage("user", text),), rng.randrange(1, 40))
        for n, text in enumerate(texts)
    ]
    for n, name in enumerate(("square_500x500", "small_37x23", "square_500x500")):
        picture = ChatImage(golden.image(name), num_crops=1)
        messages = (ChatMessage("user", f"Describe {n}.", (picture,)),)
        found.append(Question(f"picture-{n}", messages, 8))
    return found


@pytest.mark.timeout(600)
def test_two_thousand_requests_with_leavers_each_equal_their_solo_run(
    golden,
    tokenizer,
    make_engine,  # noqa: F811
):
    prompts = PromptBuilder(tokenizer, load_card("phi-3-vision-128k-instruct"), golden.vision)
    asked = questions(golden)

    def sequence(question: Question, sequence_id: str) -> Sequence:
        prompt = prompts.build(question.messages)
        params = SamplingParams(question.max_tokens)
        return Sequence(sequence_id, prompt.token_ids, params, prompt.images)

    solo = {q.name: generate(make_engine(), [sequence(q, "solo")])["solo"] for q in asked}
    # Room for two or three of the longest at once, so that preemption is ordinary.
    engine = make_engine(num_tokens=384, max_num_seqs=8, max_num_batched_tokens=128)
    rng = random.Random(11)
    running: dict[str, tuple[Question, list[int], int]] = {}
    started = finished = 0
    while started < NUM_REQUESTS or engine.has_work:
        while started < NUM_REQUESTS and len(running) < 24:
            question = rng.choice(asked)
            sequence_id = f"request-{started}"
            leaves_after = rng.randrange(40) if rng.random() < 0.3 else 10_000
            running[sequence_id] = (question, [], leaves_after)
            engine.add(sequence(question, sequence_id))
            started += 1
        for output in engine.step():
            question, tokens, _ = running[output.sequence_id]
            tokens.append(output.token_id)
            assert tokens == solo[question.name][: len(tokens)], output.sequence_id
            if output.finish_reason:
                assert tokens == solo[question.name]
                finished += 1
                del running[output.sequence_id]
        for sequence_id, (question, tokens, leaves_after) in list(running.items()):
            running[sequence_id] = (question, tokens, leaves_after - 1)
            if leaves_after == 0:
                engine.abort(sequence_id)
                del running[sequence_id]

    assert finished > NUM_REQUESTS / 2
    assert engine.stats().num_preemptions > 20
    assert engine.stats().feature_cache_bytes <= 4 << 20
    assert_idle(engine)
