"""A vocabulary of the genuine size for random checkpoints: bytes and characters, the words that the
load generator says, and as many made-up ones as fill it."""

import itertools
import json
import string
from collections.abc import Iterator
from pathlib import Path

from scoring.random_checkpoint import character_tokenizer

from .load.workload import WORDS

VOCAB_SIZE = 32064
# Ids from here on are control tokens, and rows that no token has.
_NUM_PIECES = 32000
# <unk>, <s>, </s>, 256 bytes and the space: none is text that can be seen.
_NUM_UNSEEN = 260
NEVER_SAID = (*range(_NUM_UNSEEN), *range(_NUM_PIECES, VOCAB_SIZE))
# As the genuine checkpoint's, for servers that read it.
_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' + message['content'] + "
    "'<|end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)


def write_tokenizer(directory: Path) -> None:
    """tokenizer.json, which is all that we read, and what transformers wants beside it."""
    num_characters = character_tokenizer().get_vocab_size(with_added_tokens=False)
    longer = list(itertools.islice(_pieces(), _NUM_PIECES - num_characters))
    character_tokenizer(longer).save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<unk>",
        "chat_template": _CHAT_TEMPLATE,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=1))


def _pieces() -> Iterator[str]:
    """Words after a space, each once, and before each its beginnings."""
    seen = {"▁"}
    made_up = ("".join(letters) for n in itertools.count(1) for letters in _letters(n))
    for word in itertools.chain(WORDS, made_up):
        for end in range(1, len(word) + 1):
            piece = "▁" + word[:end]
            if piece not in seen:
                seen.add(piece)
                yield piece


def _letters(length: int) -> Iterator[tuple[str, ...]]:
    return itertools.product(string.ascii_lowercase, repeat=length)
