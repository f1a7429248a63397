"""The demo's tokenizer.json: the genuine one's parts around a small vocabulary.

A word of the answers' sentences is one token, with the space before it. Digits, and letters after
a quotation mark, stay single: what is read off a picture is spelled.
"""

import random
import re
from collections import Counter
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from . import small_talk
from .drawings import TRAINING, draw_one

_SPACE = "▁"
_NUM_DRAWINGS = 4000
_SEED = 11
_MOST_MERGES = 900
_FEWEST_USES = 8
# Ids after the vocabulary; every one with the flags of the genuine file.
_CONTROL_TOKENS = ("<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>")


def write_tokenizer(path: Path) -> None:
    """Seeded: the same bytes each time."""
    merges = _prefix_merges(_count_words())
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), _SPACE]
    pieces += [chr(code) for code in range(0x21, 0x7F)]
    pieces += [left + right for left, right in merges]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={piece: index for index, piece in enumerate(pieces)},
            merges=merges,
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(_SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    tokenizer.add_special_tokens(
        [
            AddedToken(token, normalized=False, special=True, rstrip=token == "<|assistant|>")
            for token in _CONTROL_TOKENS
        ]
    )
    tokenizer.save(str(path))


def _count_words() -> Counter[str]:
    """The words of the training texts, each with the space before it."""
    rng = random.Random(_SEED)
    words: Counter[str] = Counter()
    for _ in range(_NUM_DRAWINGS):
        exchanges = [*draw_one(rng, TRAINING).exchanges, small_talk.small_talk(rng)]
        for exchange in exchanges:
            for text in (exchange.question, exchange.answer):
                words.update(_SPACE + word for word in re.findall(r"(?<=\s)[A-Za-z]+", " " + text))
    return words


def _prefix_merges(words: Counter[str]) -> list[tuple[str, str]]:
    """Byte-pair encoding whose left part always begins with the space."""
    pieces = {word: [_SPACE, *word[1:]] for word, uses in words.items() if uses >= _FEWEST_USES}
    merges: list[tuple[str, str]] = []
    while len(merges) < _MOST_MERGES:
        # Only a word's first two pieces can merge.
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in pieces.items():
            if len(parts) > 1:
                pairs[parts[0], parts[1]] += words[word]
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        for parts in pieces.values():
            if len(parts) > 1 and (parts[0], parts[1]) == best:
                parts[:2] = [best[0] + best[1]]
    return merges
