"""Which tokens a sequence has, and how often: what penalties are computed from."""

import numpy as np
from numpy.typing import NDArray


class TokenHistory:
    """The distinct tokens of a growing sequence, each with its count in the output.

    Reads every token once, so that a step costs its new tokens and not the whole text.
    """

    def __init__(self, num_prompt_tokens: int, *, with_prompt: bool) -> None:
        """with_prompt: whether the prompt's tokens are wanted, with a count of 0."""
        self._num_prompt_tokens = num_prompt_tokens
        self._num_read = 0 if with_prompt else num_prompt_tokens
        self._index: dict[int, int] = {}
        self._ids = np.zeros(64, dtype=np.int64)
        self._counts = np.zeros(64, dtype=np.int64)

    @property
    def ids(self) -> NDArray[np.int64]:
        return self._ids[: len(self._index)]

    @property
    def counts(self) -> NDArray[np.int64]:
        """How often each of ids is in the output."""
        return self._counts[: len(self._index)]

    def read(self, token_ids: list[int]) -> None:
        """Take in what was added since the last call. token_ids: the sequence's, all of them."""
        if self._num_read < self._num_prompt_tokens:
            for token_id in dict.fromkeys(token_ids[: self._num_prompt_tokens]):
                if token_id >= 0:  # the others are the slots of images
                    self._enter(token_id, 0)
            self._num_read = self._num_prompt_tokens
        for token_id in token_ids[self._num_read :]:
            self._enter(token_id, 1)
        self._num_read = len(token_ids)

    def _enter(self, token_id: int, count: int) -> None:
        index = self._index.setdefault(token_id, len(self._index))
        if index == len(self._ids):
            self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        self._ids[index] = token_id
        self._counts[index] += count
