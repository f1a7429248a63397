"""The wire types of the Azure AI Model Inference API.

Lenient where its own samples need it: numbers and booleans may come as strings, null means not
given, `stop` may be one string, `response_format` may be its bare name. Booleans are never numbers.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

_INT64 = 1 << 63
MAX_MESSAGES, MAX_PARTS = 1024, 1024


def _not_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


def _encodable(value: str) -> str:
    """JSON can spell half a surrogate pair, which is no character and has no UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half a surrogate pair, which is not text") from None
    return value


Text = Annotated[str, AfterValidator(_encodable)]
Number = Annotated[float, BeforeValidator(_not_bool), Field(allow_inf_nan=False)]
Integer = Annotated[int, BeforeValidator(_not_bool)]


class Wire(BaseModel):
    """Unknown keys inside messages and parts are tolerated, as in the published service."""

    model_config = ConfigDict(extra="ignore")


class ImageUrl(Wire):
    url: str
    detail: Literal["auto", "low", "high"] | None = None


class ContentPart(Wire):
    """Text, an image, or audio, which no model here hears. `image` is an alias of `image_url`
    that Microsoft's JavaScript sample sends."""

    type: str
    text: Text | None = None
    image_url: ImageUrl | None = None
    image: ImageUrl | None = None


def _kind_of_content(value: Any) -> str:
    return "parts" if isinstance(value, list) else "text"


# Told apart by a function, so that an error speaks of the one that was meant.
Content = Annotated[
    Annotated[Text, Tag("text")]
    | Annotated[list[ContentPart], Field(max_length=MAX_PARTS), Tag("parts")],
    Discriminator(_kind_of_content),
]


class Message(Wire):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    tool_calls: list[Any] | None = None


class ResponseFormat(Wire):
    type: Literal["text", "json_object", "json_schema"]

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        return {"type": value} if isinstance(value, str) else value


# Not in the API's table, but known here: they need `extra-parameters: pass-through`.
EXTRA_PARAMETERS = ("logprobs", "top_logprobs", "n")


class ChatCompletionsRequest(BaseModel):
    """POST /chat/completions. Keys that are not fields are kept for `extra-parameters` to judge."""

    model_config = ConfigDict(extra="allow")

    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    model: str | None = Field(None, description="Any name; there is one model.")
    frequency_penalty: Number | None = Field(None, ge=-2, le=2)
    presence_penalty: Number | None = Field(None, ge=-2, le=2)
    temperature: Number | None = Field(None, ge=0, le=2)
    top_p: Number | None = Field(None, gt=0, le=1)
    max_tokens: Integer | None = Field(
        None, ge=1, description="Output tokens at most; also cut at the end of the context."
    )
    stop: list[Text] | None = Field(None, max_length=16)
    stream: bool | None = None
    seed: Integer | None = Field(None, ge=-_INT64, lt=_INT64)
    response_format: ResponseFormat | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    logprobs: bool | None = Field(None, description="Extra parameter.")
    top_logprobs: Integer | None = Field(None, ge=0, le=20, description="Extra parameter.")
    n: Literal[1] | None = Field(None, description="Extra parameter; one answer is all there is.")

    @property
    def has_pictures(self) -> bool:
        lists = [m.content for m in self.messages if isinstance(m.content, list)]
        return any(part.type != "text" for parts in lists for part in parts)

    @model_validator(mode="before")
    @classmethod
    def _one_stop_string(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("stop"), str):
            return value | {"stop": [value["stop"]]}
        return value

    @model_validator(mode="after")
    def _check_stop_and_logprobs(self) -> Self:
        if any(not stop for stop in self.stop or ()):
            raise ValueError("stop: a stop string must not be empty")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs: needs logprobs to be true")
        return self
