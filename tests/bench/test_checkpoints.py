"""Random checkpoints, of which the benchmarks have their models."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmark import checkpoints
from benchmark.systems import Ours, build_ours
from benchmark.text_twin import write_text_twin
from benchmark.vocabulary import NEVER_SAID, VOCAB_SIZE
from benchmark.workload import Request
from model_config import card_for, from_checkpoint
from scoring.prompt import ChatMessage, PromptBuilder, load_tokenizer
from scoring.weights import build_empty

PROMPT = list(range(300, 332))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The size small in all but its sizes: one regime of rotary factors, heads that are not 96
    wide."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        size = checkpoints._Size("nothing", 64, 128, 2, 4, 32, 2, 2, 4096)
        patch.setitem(checkpoints._SIZES, "small", size)
        patch.setattr(checkpoints, "_CACHE", folder)
        return checkpoints.checkpoint_pair()


def test_a_greedy_answer_never_ends_early_and_all_of_it_can_be_seen(small):
    (answer,) = Ours(build_ours(small.model, "float32")).generate([Request(PROMPT, 200)])

    assert len(answer) == 200
    assert not set(answer) & set(NEVER_SAID)
    assert load_tokenizer(small.model).decode(answer).isprintable()


def test_the_twin_is_transformers_phi3_and_computes_the_same(small):
    theirs = AutoModelForCausalLM.from_pretrained(small.twin, dtype=torch.float32)
    (ours,) = Ours(build_ours(small.model, "float32")).generate([Request(PROMPT, 16)])
    with torch.inference_mode():
        (row,) = theirs.generate(torch.tensor([PROMPT]), max_new_tokens=16, do_sample=False)

    assert type(theirs).__name__ == "Phi3ForCausalLM"
    assert row[len(PROMPT) :].tolist() == ours


def test_both_make_the_same_prompt_of_a_chat(small):
    text = "I can not say that there is water"
    config = from_checkpoint(small.model)
    card = card_for(config.name_or_path)
    builder = PromptBuilder(load_tokenizer(small.model), card, config.vision)
    ours = builder.build([ChatMessage("user", text)]).token_ids
    tokenizer = AutoTokenizer.from_pretrained(small.twin)
    theirs = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False
    )

    assert theirs == f"<|user|>\n{text}<|end|>\n<|assistant|>\n"
    words = {f"▁{word}" for word in text.split()[1:]}
    control = {"<s>", "<|user|>", "<|end|>", "<|assistant|>"}
    assert set(tokenizer.convert_ids_to_tokens(ours)) >= words | control


def test_the_vocabulary_has_the_genuine_size(small):
    assert json.loads((small.model / "config.json").read_text())["vocab_size"] == VOCAB_SIZE
    backend = load_tokenizer(small.model).backend_tokenizer
    assert backend.token_to_id("<|endoftext|>") == 32000
    assert backend.get_vocab_size() <= VOCAB_SIZE


def test_a_checkpoint_is_made_once(small, monkeypatch):
    monkeypatch.setattr(checkpoints, "_CACHE", small.model.parent)
    before = (small.model / "config.json").stat().st_mtime_ns

    assert checkpoints.checkpoint_pair() == small
    assert (small.model / "config.json").stat().st_mtime_ns == before


def test_the_sizes_are_those_that_the_documentation_names(tmp_path):
    """docs/speed.md: 0.31 billion parameters, 0.04 of them in the tower, 0.27 in the decoder, of
    which a step reads 0.24."""
    checkpoints._write_configuration(tmp_path, checkpoints._SIZES["small"])
    named = build_empty(from_checkpoint(tmp_path)).named_parameters()
    sizes = {name: parameter.numel() for name, parameter in named}
    tower = sum(size for name, size in sizes.items() if "vision" in name)
    decoder = sum(sizes.values()) - tower

    found = (sum(sizes.values()), tower, decoder, decoder - sizes["model.embed_tokens.weight"])
    assert [round(number / 1e9, 2) for number in found] == [0.31, 0.04, 0.27, 0.24]


def test_a_twin_has_the_weights_of_its_model(small, tmp_path):
    write_text_twin(small.model, tmp_path)

    assert (tmp_path / "model.safetensors").read_bytes() == (
        small.twin / "model.safetensors"
    ).read_bytes()
