"""Fifty schemas through the whole engine with the genuine tokenizer: what comes out is JSON, it
validates, and nobody beside it notices."""

import asyncio
import json
import re
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch

from model_config import from_checkpoint, load_card
from scoring.async_engine import AsyncEngine, EngineState
from scoring.engine import Engine
from scoring.engine_builder import build_engine
from scoring.engine_config import EngineConfig
from scoring.errors import InvalidSequenceError
from scoring.grammar import Grammar, choice_grammar, json_grammar, regex_grammar
from scoring.grammar_mask import GrammarTokenizer
from scoring.prompt import PromptBuilder, load_tokenizer
from scoring.random_checkpoint import write_demo_checkpoint
from scoring.sequence import FinishReason, SamplingParams, Sequence
from scoring.text_stream import TokenTextStreamer

from ..json_schemas import SCHEMAS

CONTROL_TOKENS = {0, 1, 2, *range(32000, 32064)}


def config_of(checkpoint: Path) -> EngineConfig:
    return EngineConfig(
        checkpoint, device="cpu", dtype="float32", kernels="eager", kv_cache_bytes=1 << 27
    )


@pytest.fixture(scope="module")
def ends(tokenizer, config) -> frozenset[int]:
    card = load_card("phi-3-vision-128k-instruct")
    return PromptBuilder(tokenizer, card, config.vision).stop_token_ids


@pytest.fixture(scope="module")
def engine(tiny) -> Engine:
    engine = build_engine(config_of(tiny), lambda done, total: None)
    torch.set_num_threads(1)
    return engine


@dataclass
class Result:
    token_ids: list[int]
    reason: FinishReason
    error: str | None = None


def run(engine: Engine, *sequences: Sequence) -> dict[str, Result]:
    """Side by side to their ends."""
    for sequence in sequences:
        engine.add(sequence)
    tokens: dict[str, list[int]] = defaultdict(list)
    results = {}
    for num_steps in count():
        if not engine.has_work:
            break
        assert num_steps < 10_000, "no end in sight"
        for output in engine.step():
            if output.token_id is not None:
                tokens[output.sequence_id].append(output.token_id)
            if output.finish_reason is not None:
                said = tokens[output.sequence_id]
                results[output.sequence_id] = Result(said, output.finish_reason, output.error)
    stats = engine.stats()
    assert (stats.num_running, stats.num_waiting) == (0, 0)
    assert stats.num_blocks_free + stats.num_blocks_cached == stats.num_blocks
    return results


def bound(
    name: str, grammar: Grammar | None, ends: frozenset[int], *, seed: int | None = None
) -> Sequence:
    """A sequence with a grammar; greedy, unless it has a seed."""
    temperature = 0.0 if seed is None else 1.0
    params = SamplingParams(
        max_tokens=400, temperature=temperature, seed=seed or 0, eos_token_ids=ends
    )
    return Sequence(name, [1, 32010, 450, 1234, 32007, 32001], params, grammar=grammar)


def free(name: str, ends: frozenset[int], *, seed: int | None = None) -> Sequence:
    sequence = bound(name, None, ends, seed=seed)
    sequence.params = replace(sequence.params, max_tokens=60, eos_token_ids=frozenset())
    return sequence


def text_of(tokenizer, result: Result, ends: frozenset[int]) -> str:
    """As the server makes it."""
    assert result.reason is FinishReason.STOP, (result.reason, result.error)
    *said, end = result.token_ids
    assert end in ends
    assert not CONTROL_TOKENS & set(said)
    streamer = TokenTextStreamer(tokenizer)
    streamer.put(said)
    streamer.end()
    return streamer.take()


def assert_valid(text: str, name: str) -> None:
    # Of moments, this checker knows no leap seconds.
    checker = jsonschema.FormatChecker(["date", "ipv4", "uuid"])
    kind = jsonschema.Draft202012Validator
    jsonschema.validate(json.loads(text), SCHEMAS[name], kind, format_checker=checker)


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_answer_is_json_that_the_schema_allows(engine, tokenizer, ends, name):
    grammar = json_grammar(SCHEMAS[name])
    for seed in (None, 1, 2, 3):
        result = run(engine, bound("one", grammar, ends, seed=seed))["one"]
        assert_valid(text_of(tokenizer, result, ends), name)


@pytest.mark.parametrize("seed", [None, 5], ids=["greedy", "sampled"])
def test_a_batch_of_all_schemas_is_as_good_as_each_alone(engine, tokenizer, ends, seed):
    """And free requests among them say, token by token, what they say by themselves."""
    alone = {
        name: run(engine, free(name, ends, seed=number))[name].token_ids
        for number, name in enumerate(("free a", "free b", "free c"))
    }
    bounds = [bound(name, json_grammar(SCHEMAS[name]), ends, seed=seed) for name in SCHEMAS]
    frees = [free(name, ends, seed=number) for number, name in enumerate(alone)]
    solo = {name: run(engine, bound(name, json_grammar(SCHEMAS[name]), ends, seed=seed))[name]
            for name in SCHEMAS}  # fmt: skip

    results = run(engine, *frees[:1], *bounds[:20], *frees[1:], *bounds[20:])

    for name in SCHEMAS:
        assert_valid(text_of(tokenizer, results[name], ends), name)
        assert results[name].token_ids == solo[name].token_ids
    assert {name: results[name].token_ids for name in alone} == alone


def test_steps_that_overlap_say_the_same(engine, tiny, ends):
    """A mask is filled when the token before it is known, and no more once its text has ended."""

    def sequences() -> list[Sequence]:
        bounds = [
            bound(name, json_grammar(SCHEMAS[name]), ends, seed=number or None)
            for number, name in enumerate([*SCHEMAS][:15])
        ]
        return [*bounds, free("free", ends, seed=7)]

    ahead = build_engine(config_of(tiny), lambda done, total: None)
    ahead._overlap = True

    results = run(ahead, *sequences())

    assert results == run(engine, *sequences())
    assert [r.reason for r in results.values()].count(FinishReason.STOP) >= 15


def test_in_the_engines_own_process_it_is_the_same(engine, tokenizer, ends, tiny):
    """The grammar travels as text."""
    names = list(SCHEMAS)[::3]
    expected = {
        name: run(engine, bound(name, json_grammar(SCHEMAS[name]), ends))[name].token_ids
        for name in names
    }

    async def tokens_of(there: AsyncEngine, name: str) -> list[int | None]:
        sequence = bound(name, json_grammar(SCHEMAS[name]), ends)
        async with aclosing(there.generate(sequence)) as outputs:
            return [output.token_id async for output in outputs]

    async def scenario() -> list[list[int | None]]:
        there = AsyncEngine(config_of(tiny), max_queued=100, own_process=True)
        there.start()
        try:
            async with asyncio.timeout(120):
                while there.state is EngineState.LOADING:  # noqa: ASYNC110 - another process
                    await asyncio.sleep(0.01)
                return await asyncio.gather(*(tokens_of(there, name) for name in names))
        finally:
            await there.stop()

    assert dict(zip(names, asyncio.run(scenario()), strict=True)) == expected


def test_with_a_picture_too(engine, tokenizer, ends, golden):
    sequence, _ = golden.run("image_square")
    sequence.params = replace(sequence.params, max_tokens=400, eos_token_ids=ends)
    sequence.grammar = json_grammar(SCHEMAS["an invoice"])

    assert sequence.images
    result = run(engine, sequence)["image_square"]

    assert_valid(text_of(tokenizer, result, ends), "an invoice")


@pytest.mark.parametrize("seed", [None, 1, 2])
@pytest.mark.parametrize(
    "pattern",
    [
        "[a-z]{3}-[0-9]{2}",
        " two leading( words)?",
        "  {1,3}x",
        "",
        "a?",
        "(/|\\\\n){2}",
        "[à-ÿ]{3}\n",
    ],
)
def test_a_regex_is_matched_from_the_first_to_the_last_character(
    engine, tokenizer, ends, pattern, seed
):
    """Leading spaces included, of which the decoder drops one."""
    sequence = bound("one", regex_grammar(pattern), ends, seed=seed)

    text = text_of(tokenizer, run(engine, sequence)["one"], ends)

    assert re.fullmatch(pattern, text), text


@pytest.mark.parametrize("seed", [None, *range(8)])
def test_a_choice_is_one_of_the_texts(engine, tokenizer, ends, seed):
    choices = ["yes", " no", "", 'per"haps\n', "日本", "<|end|>", "a\u2028b", "yes, if"]

    result = run(engine, bound("one", choice_grammar(choices), ends, seed=seed))["one"]

    assert text_of(tokenizer, result, ends) in choices


@pytest.mark.parametrize("choice", ["Hello, world", " x", "<|user|>", "</s>", "日本\n", "", "\t"])
def test_a_choice_of_one_is_said_as_it_stands(engine, tokenizer, ends, choice):
    result = run(engine, bound("one", choice_grammar([choice]), ends))["one"]

    assert text_of(tokenizer, result, ends) == choice


def test_the_words_may_begin_as_the_model_was_trained(tokenizer, ends, tiny):
    """With the token of a brace after a space; and never with two spaces."""
    pieces = {tokenizer.convert_ids_to_tokens(i) for i in allowed(tiny, ends, {"type": "object"})}

    assert "▁{" in pieces
    assert pieces <= {"▁", "<0x20>", "▁{", '▁{"', "▁{}"}


@pytest.mark.parametrize(
    ("said", "is_complete"),
    [(" ", False), (' {"a"', False), (' {"a": 1', False), (' {"a": 1}', True)],
)
def test_only_where_the_grammar_is_complete_may_the_text_end(
    tokenizer, ends, tiny, said, is_complete
):
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    ids = allowed(tiny, ends, schema, tokenizer.encode(said[1:], add_special_tokens=False))

    assert ids & CONTROL_TOKENS == (ends if is_complete else set())


@pytest.mark.parametrize("name", ["genuine", "demo"])
def test_what_ends_the_text_is_never_text_itself(ends, tiny, tmp_path, name):
    """The demo's tokenizer.json has "</s>" in its vocabulary and not among its own tokens."""
    schema = {"type": "string"}
    if name == "demo":
        write_demo_checkpoint(tmp_path / "demo")
        tiny = tmp_path / "demo"
        vocabulary = load_tokenizer(tiny).get_vocab()
        ends = frozenset(vocabulary[token] for token in load_card("demo").stop_tokens)
    vocabulary = load_tokenizer(tiny).get_vocab()

    inside = allowed(tiny, ends, schema, [vocabulary["▁"], vocabulary['"'], vocabulary["a"]])

    assert vocabulary["<"] in inside
    assert not ends & inside


def test_a_key_has_only_one_spelling(tokenizer, ends, tiny):
    """Else "\\u0061" would be a key of any value beside the property "a", and the same one."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    said = tokenizer.encode('{"\\', add_special_tokens=False)

    pieces = {tokenizer.convert_ids_to_tokens(i) for i in allowed(tiny, ends, schema, said)}

    assert "n" in pieces
    assert not {piece for piece in pieces if piece.startswith(("u", "/"))}


def allowed(
    checkpoint: Path, ends: frozenset[int], schema: dict[str, Any], said: Iterable[int] = ()
) -> set[int]:
    """What may come after the tokens."""
    vocab_size = from_checkpoint(checkpoint).text.vocab_size
    tokenizer = GrammarTokenizer(checkpoint / "tokenizer.json", ends, vocab_size)
    mask = tokenizer.compile(json_grammar(schema))
    for token_id in said:
        mask.accept(token_id)
    bits = np.zeros((1, -(-vocab_size // 32)), dtype=np.int32)
    mask.fill(bits, 0)
    return set(np.flatnonzero(np.unpackbits(bits.view(np.uint8), bitorder="little")).tolist())


# What goes wrong

HOPELESS = "(.|\\n)*a(.|\\n){3,3000}b"  # each token makes it remember more


def test_a_grammar_that_reaches_its_limits_fails_alone(engine, ends):
    alone = run(engine, free("free", ends, seed=3))["free"]
    hopeless = bound("hopeless", regex_grammar(HOPELESS), ends, seed=1)
    hopeless.params = replace(hopeless.params, max_tokens=4000)

    results = run(engine, hopeless, free("free", ends, seed=3))

    assert results["hopeless"].reason is FinishReason.ERROR
    assert results["free"] == alone


def test_a_grammar_that_does_not_compile_fails_alone(engine, ends):
    alone = run(engine, free("free", ends))["free"]

    results = run(
        engine,
        bound("regex", regex_grammar("(a"), ends),
        free("free", ends),
        bound("schema", json_grammar({"type": "int"}), ends),
        bound("garbage", Grammar("{"), ends),
        bound("nothing", json_grammar({"$ref": "#"}), ends),
    )

    assert results["free"] == alone
    for name in ("regex", "schema", "garbage", "nothing"):
        assert results[name].reason is FinishReason.ERROR
        assert results[name].token_ids == []
    assert "unclosed group" in (results["regex"].error or "")
    assert "nothing fulfils it" in (results["nothing"].error or "")


def test_max_tokens_cuts_an_answer(engine, ends):
    sequence = bound("one", json_grammar(SCHEMAS["an invoice"]), ends)
    sequence.params = replace(sequence.params, max_tokens=5)

    result = run(engine, sequence)["one"]

    assert (len(result.token_ids), result.reason) == (5, FinishReason.LENGTH)


def test_who_leaves_while_the_grammar_is_compiled_is_gone(engine, ends):
    engine.add(bound("gone", json_grammar(SCHEMAS["an invoice"]), ends))
    engine.add(free("stays", ends))
    assert engine.stats().num_waiting == 2
    engine.abort("gone")

    assert engine.stats().num_waiting == 1
    assert run(engine).keys() == {"stays"}


def test_a_time_limit_counts_while_the_grammar_is_compiled(engine, ends):
    sequence = bound("late", json_grammar(SCHEMAS["an invoice"]), ends)
    sequence.deadline = time.monotonic() - 1

    assert run(engine, sequence)["late"] == Result([], FinishReason.LENGTH)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"min_tokens": 3}, "min_tokens"),
        ({"ignore_eos": True}, "ignore_eos"),
        ({"eos_token_ids": frozenset()}, "ignore_eos"),
        ({"stop_token_ids": frozenset({450})}, "stop_token_ids"),
    ],
)
def test_what_would_end_a_grammar_elsewhere_is_refused(engine, ends, changes, named):
    sequence = bound("one", json_grammar({"type": "object"}), ends)
    sequence.params = replace(sequence.params, **changes)

    with pytest.raises(InvalidSequenceError, match=named):
        engine.add(sequence)
    assert not engine.has_work


def test_a_grammar_that_is_too_long_is_refused(engine, ends):
    with pytest.raises(InvalidSequenceError, match="131072"):
        engine.add(bound("one", choice_grammar(["x" * (1 << 17)]), ends))


def test_logprobs_stay_those_of_the_raw_logits(engine, ends):
    """The one token that may come has the probability that the model gave it."""
    sequence = bound("one", choice_grammar(["yes"]), ends)
    sequence.params = replace(sequence.params, logprobs=2)
    engine.add(sequence)
    logprobs = []
    while engine.has_work:
        logprobs += [output.logprobs for output in engine.step() if output.logprobs]

    assert all(own.sampled < own.top[0][1] < 0 for own in logprobs)
