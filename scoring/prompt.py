"""Chat messages → the token ids of the published prompt, with slots for pictures.

The layout is the checkpoint's chat template and processor (processing_phi3_v.py), built from its
parts instead of from a string: control tokens are placed by id, a picture's slots by structure,
and text is encoded by a tokenizer that knows no control tokens. So nothing that a user writes,
`<|end|>` or `<|image_1|>` say, is anything but text.
"""

import json
from collections.abc import Sequence as Items
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from model_config import Card, ModelConfigError, VisionConfig

from .image_processor import to_hd_picture
from .sequence import ImageSpan

# What the tokenizer's `rstrip` eats after <|assistant|>: Unicode White_Space (str.strip's own
# notion adds four control characters).
_WHITE_SPACE = (
    "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009"
    "\u200a\u2028\u2029\u202f\u205f\u3000"
)


@dataclass(frozen=True)
class ChatImage:
    """An RGB picture; num_crops: the most crops for it, None for the model's own number."""

    image: Image.Image
    num_crops: int | None = None


@dataclass(frozen=True)
class ChatMessage:
    """One turn: its role (user, assistant, system or developer), its text and its pictures."""

    role: str
    text: str
    images: tuple[ChatImage, ...] = ()


@dataclass(frozen=True)
class Prompt:
    """Token ids with the ids -1, -2, … in the slots of the first, second, … picture."""

    token_ids: list[int]
    images: tuple[ImageSpan, ...]


def load_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    """The checkpoint's tokenizer.json as it stands.

    AutoTokenizer would build a LlamaTokenizer of its own here and ignore the file's normalizer
    (huggingface/transformers#45488). Raises ModelConfigError where the file cannot be read.
    """
    path = directory / "tokenizer.json"
    try:
        backend = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise ModelConfigError(f"{path.name} cannot be read as a tokenizer") from error
    return PreTrainedTokenizerFast(tokenizer_object=backend)  # type: ignore[no-untyped-call]


class PromptBuilder:
    """Builds prompts for one model. Safe to use from several threads at once."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, card: Card, vision: VisionConfig
    ) -> None:
        backend = tokenizer.backend_tokenizer
        self._plain = _without_control_tokens(backend)
        self.vision = vision
        self._images_kept = card.images_kept
        self._bos, self._end = _token_id(backend, "<s>"), _token_id(backend, "<|end|>")
        self._roles = {role: _token_id(backend, f"<|{role}|>") for role in ("user", "assistant")}
        system = _token_id(backend, f"<|{card.system_role}|>")
        self._roles |= {"system": system, "developer": system}
        self.stop_token_ids = frozenset(_token_id(backend, token) for token in card.stop_tokens)

    def build(self, messages: Items[ChatMessage]) -> Prompt:
        """The prompt of a conversation, ready for the assistant's next turn.

        Of all pictures the card's last `images_kept` stay, each first in its own turn; a turn that
        loses its picture keeps its text. Raises KeyError for an unknown role: check before.
        """
        surplus = sum(len(message.images) for message in messages) - self._images_kept
        token_ids, spans = [self._bos], []
        for message in messages:
            dropped = min(max(surplus, 0), len(message.images))
            surplus -= dropped
            role = self._roles[message.role]
            token_ids.append(role)
            for image in message.images[dropped:]:
                num_crops = image.num_crops or self.vision.num_crops
                picture = to_hd_picture(image.image, replace(self.vision, num_crops=num_crops))
                token_ids += self._encode("\n")
                spans.append(ImageSpan(picture, len(token_ids)))
                token_ids += [-len(spans)] * picture.num_tokens
                # The published processor tokenizes each piece between pictures on its own.
                token_ids.append(self._bos)
            text = "\n" + message.text
            if token_ids[-1] == self._roles["assistant"]:
                text = text.lstrip(_WHITE_SPACE)
            token_ids += [*self._encode(text), self._end, *self._encode("\n")]
        token_ids.append(self._roles["assistant"])
        return Prompt(token_ids, tuple(spans))

    def _encode(self, text: str) -> list[int]:
        return self._plain.encode(text, add_special_tokens=False).ids if text else []


def _without_control_tokens(backend: Tokenizer) -> Tokenizer:
    """The same vocabulary and merges, for text that must stay text."""
    description = json.loads(backend.to_str())
    description |= {"added_tokens": [], "post_processor": None}
    return Tokenizer.from_str(json.dumps(description))


def _token_id(backend: Tokenizer, token: str) -> int:
    token_id = backend.token_to_id(token)
    if token_id is None:
        raise ModelConfigError(f"tokenizer.json has no token {token!r}")
    return int(token_id)
