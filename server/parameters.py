"""The parameters of a completion, as they come off the wire, each with its range.

Lenient where the API's own samples need it: numbers and booleans may come as strings, null means
not given, `stop` may be one string. Booleans are never numbers, nor numbers
booleans.
"""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, field_validator

from scoring.sequence import MAX_LOGIT_BIASES, MAX_LOGPROBS

_INT64 = 1 << 63
_MAX_STOPS, _MAX_STOP_CHARACTERS = 16, 1024


def not_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


def _not_number(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _encodable(value: str) -> str:
    """JSON can spell half a surrogate pair, which is no character and has no UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half a surrogate pair, which is not text") from None
    return value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Text = Annotated[str, AfterValidator(_encodable)]
Flag = Annotated[bool, BeforeValidator(_not_number)]
Number = Annotated[float, Field(allow_inf_nan=False)]
_StopString = Annotated[Text, Field(min_length=1, max_length=_MAX_STOP_CHARACTERS)]
_TokenId = Annotated[int, BeforeValidator(not_bool)]
_Bias = Annotated[Number, Field(ge=-100, le=100), BeforeValidator(not_bool)]

# Not in the API's table, but known here: on Azure's routes they need `extra-parameters:
# pass-through`.
EXTRA_PARAMETERS = (
    "logprobs",
    "top_logprobs",
    "n",
    "logit_bias",
    "max_completion_tokens",
    "stream_options",
    "top_k",
    "min_p",
    "repetition_penalty",
    "stop_token_ids",
    "min_tokens",
    "ignore_eos",
    "num_crops",
    "guided_regex",
    "guided_choice",
)


class Parameters(BaseModel):
    """What decides over an answer, apart from the conversation. None is: not given."""

    frequency_penalty: Number | None = Field(None, ge=-2, le=2)
    presence_penalty: Number | None = Field(None, ge=-2, le=2)
    temperature: Number | None = Field(None, ge=0, le=2)
    top_p: Number | None = Field(None, gt=0, le=1)
    max_tokens: int | None = Field(
        None, ge=1, description="Output tokens at most; also cut at the end of the context."
    )
    stop: Annotated[
        list[_StopString] | None,
        Field(max_length=_MAX_STOPS),
        BeforeValidator(
            _as_list,
            json_schema_input_type=_StopString
            | Annotated[list[_StopString], Field(max_length=_MAX_STOPS)]
            | None,
        ),
    ] = Field(None, description="One string, or several; the text ends before it.")
    seed: int | None = Field(None, ge=-_INT64, lt=_INT64)
    logprobs: Flag | None = Field(None, description="Extra parameter.")
    top_logprobs: int | None = Field(
        None, ge=0, le=MAX_LOGPROBS, description="Extra parameter; needs logprobs."
    )
    n: int | None = Field(
        None, ge=1, le=1, description="Extra parameter; one answer is all there is."
    )
    logit_bias: dict[_TokenId, _Bias] | None = Field(
        None,
        max_length=MAX_LOGIT_BIASES,
        description="Extra parameter: token id → what is added to its logit; ±100 forces or bans.",
    )
    max_completion_tokens: int | None = Field(
        None, ge=1, description="Extra parameter: OpenAI's newer name of max_tokens."
    )
    top_k: int | None = Field(
        None, ge=-1, description="Extra parameter: the k most likely tokens; 0 and -1 are off."
    )
    min_p: Number | None = Field(
        None,
        ge=0,
        le=1,
        description="Extra parameter: tokens at least so likely, relative to the most likely.",
    )
    repetition_penalty: Number | None = Field(
        None,
        ge=0.01,
        le=100,
        description="Extra parameter: divides the logits of tokens in prompt and answer; 1 is off.",
    )
    stop_token_ids: list[_TokenId] | None = Field(
        None, max_length=_MAX_STOPS, description="Extra parameter: ids that end the text."
    )
    min_tokens: int | None = Field(
        None,
        ge=0,
        description="Extra parameter: output tokens before one that ends the text can come; stop "
        "strings end it still.",
    )
    ignore_eos: Flag | None = Field(
        None, description="Extra parameter: the model's own end tokens do not end the text."
    )
    guided_regex: Text | None = Field(
        None, description="Extra parameter: the answer matches it, from start to end. vLLM's name."
    )
    guided_choice: list[Text] | None = Field(
        None,
        min_length=1,
        max_length=1000,
        description="Extra parameter: the answer is one of these. vLLM's name.",
    )
    num_crops: int | None = Field(
        None,
        ge=1,
        le=16,
        description="Extra parameter: crops of a picture at most, its global view not counted; "
        "more see more and take more tokens. A picture of detail low has one.",
    )

    @field_validator(
        "frequency_penalty",
        "presence_penalty",
        "temperature",
        "top_p",
        "max_tokens",
        "seed",
        "top_logprobs",
        "n",
        "max_completion_tokens",
        "top_k",
        "min_p",
        "repetition_penalty",
        "min_tokens",
        "num_crops",
        mode="before",
    )
    @classmethod
    def _is_no_bool(cls, value: Any) -> Any:
        return not_bool(value)

    @property
    def most_tokens(self) -> int | None:
        """max_tokens, by either name."""
        return self.max_completion_tokens if self.max_tokens is None else self.max_tokens
