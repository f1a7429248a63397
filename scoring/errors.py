"""What can go wrong in the scoring package.

ScoringError
├── CheckpointError          the weights on disk do not fit the model, or cannot be read
├── InvalidSequenceError     refused at the engine's door; the caller's fault
│   ├── ContextLengthError   prompt longer than the context
│   ├── NeverFitsError       a step of it needs more memory than there is, even by itself
│   └── GrammarError         a grammar that cannot be compiled within its limits
├── GenerationError          one sequence failed while it ran; the others went on
├── EngineOverloadedError    the queue is full; worth a retry
│   └── OutOfMemoryError     there was too little memory for it beside others; worth a retry
├── EngineNotReadyError      weights are loading or the engine is stopping; worth a retry
└── EngineDeadError          the engine's loop ended; only a restart helps
"""


class ScoringError(Exception):
    """Base of the package's errors. Messages are fit for a caller to read."""


class CheckpointError(ScoringError):
    """The weights on disk do not fit the model, or cannot be read."""


class InvalidSequenceError(ScoringError):
    """A sequence that the engine must not run."""


class ContextLengthError(InvalidSequenceError):
    """The prompt leaves no room for an answer."""

    def __init__(self, num_prompt_tokens: int, max_model_len: int) -> None:
        super().__init__(
            f"the prompt has {num_prompt_tokens} tokens, of which images may be most; "
            f"prompt and answer together may have {max_model_len}"
        )


class GrammarError(InvalidSequenceError):
    """A grammar that cannot be compiled, or not within the limits. The message is the reason."""


class NeverFitsError(InvalidSequenceError):
    """A step of the sequence needs more memory than there is, though nothing else ran."""


class GenerationError(ScoringError):
    """One sequence failed while it ran."""


class EngineOverloadedError(ScoringError):
    """The queue of waiting requests is full."""


class OutOfMemoryError(EngineOverloadedError):
    """There was too little memory for the sequence beside the others."""


class EngineNotReadyError(ScoringError):
    """The engine cannot take requests now, but will or did."""


class EngineDeadError(ScoringError):
    """The engine's loop ended by an unexpected error."""
