"""Token ids → text as it becomes certain: whole characters, and no part of a stop string."""

import codecs
import re
from collections.abc import Iterable
from typing import Any

from transformers import PreTrainedTokenizerFast, TextIteratorStreamer

_CONTEXT = "a"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


class TokenTextStreamer(TextIteratorStreamer):
    """transformers' TextIteratorStreamer with constant work per token.

    The base class decodes the whole line again for each token; this one decodes incrementally.
    Text arrives in the queue once no later token can change it: a character whose bytes are not
    all there, or an ending that may turn out to be the start of a stop string, is held back.
    At a stop string everything from its first character on is dropped, and `stopped` is set.

    A generation loop calls `put` and `end`, and another thread iterates; or one caller, an asyncio
    one say, does both and fetches what is there with `take`, which never waits.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, stop: Iterable[str] = (), **kwargs: Any
    ) -> None:
        super().__init__(tokenizer, **kwargs)
        self.stopped = False
        self._backend = tokenizer.backend_tokenizer
        self._special = {
            token_id
            for token_id, token in self._backend.get_added_tokens_decoder().items()
            if token.special
        }
        self._bytes = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._at_start = True
        self._stop = tuple(stop)
        self._held_text = ""

    def put(self, value: Any) -> None:
        """Take token ids: a tensor, as `generate` gives it, or a list of ints."""
        if self.skip_prompt and self.next_tokens_are_prompt:
            self.next_tokens_are_prompt = False
            return
        for token_id in value if isinstance(value, list) else value.flatten().tolist():
            text = self._without_stop(self._decode(token_id))
            if text:
                self.on_finalized_text(text)

    def end(self) -> None:
        """Give out what was held for a stop string that did not come; half a character is lost."""
        text, self._held_text = self._held_text, ""
        self.next_tokens_are_prompt = True
        self.on_finalized_text(text, stream_end=True)

    def take(self) -> str:
        """The text in the queue now, often empty."""
        pieces = []
        while not self.text_queue.empty():
            pieces.append(self.text_queue.get_nowait() or "")
        return "".join(pieces)

    def _decode(self, token_id: int) -> str:
        """The text that this token completes.

        tokenizers' DecodeStream is not used: it holds a run of undecodable bytes for ever, raises
        at what follows one, and takes the token that *is* U+FFFD for half a character.
        """
        if token_id in self._special:
            return ""
        piece = self._backend.id_to_token(token_id) or ""
        byte = _BYTE_TOKEN.fullmatch(piece)
        if byte:
            text = self._bytes.decode(bytes.fromhex(byte[1]))
        else:
            # The decoder drops the leading space of a text's first piece. With a piece before it
            # none of ours is the first; that space is dropped below, just once.
            text = self._backend.decoder.decode([_CONTEXT, piece]).removeprefix(_CONTEXT)
            text = self._bytes.decode(b"", final=True) + text
        if text and self._at_start:
            self._at_start = False
            text = text.removeprefix(" ")
        return text

    def _without_stop(self, text: str) -> str:
        """Append to the held text; return what is certain to lie before any stop string."""
        if self.stopped:
            return ""
        if not self._stop:
            return text
        text = self._held_text + text
        found = [at for at in (text.find(stop) for stop in self._stop) if at >= 0]
        if found:
            self.stopped = True
            self._held_text = ""
            return text[: min(found)]
        certain = len(text) - self._num_uncertain(text)
        self._held_text = text[certain:]
        return text[:certain]

    def _num_uncertain(self, text: str) -> int:
        """The length of the longest ending of text that begins a stop string."""
        longest = min(max(map(len, self._stop)) - 1, len(text))
        for length in range(longest, 0, -1):
            ending = text[-length:]
            if any(stop.startswith(ending) for stop in self._stop):
                return length
        return 0
