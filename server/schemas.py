"""The wire types of the Azure AI Model Inference API: messages, and the request around them.

Lenient where its own samples need it: `response_format` may be its bare name, a picture's key may
be `image`. What the parameters may be: parameters.py.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic.config import JsonDict

from .parameters import Flag, Parameters, Text, not_bool

# Of one conversation; each costs tokens, so that the context ends most of them sooner.
MAX_MESSAGES, MAX_PARTS = 1024, 1024
# What the document says of fields that are read and then refused: none of them is of use.
_NO_ITEMS: JsonDict = {"maxItems": 0}


class Wire(BaseModel):
    """Unknown keys inside messages and parts are tolerated, as in the published service."""

    model_config = ConfigDict(extra="ignore")


class ImageUrl(Wire):
    """A picture. Microsoft's own server takes bare base64 too, as `data`."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _data_is_a_url(cls, value: Any) -> Any:
        if isinstance(value, dict) and "url" not in value and isinstance(value.get("data"), str):
            data = value["data"]
            return value | {"url": data if ":" in data[:8] else f"data:image/any;base64,{data}"}
        return value


def _part(types: list[str], key: str, kind: str) -> JsonDict:
    """What the document says of parts of these types: they have this key."""
    properties: JsonDict = {"type": {"enum": [*types]}, key: {"type": kind}}
    return {"properties": properties, "required": ["type", key]}


class ContentPart(Wire):
    """Text, an image, or audio, which no model here hears. `image` is an alias of `image_url`
    that Microsoft's JavaScript sample sends."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                _part(["text"], "text", "string"),
                _part(["image_url", "image"], "image_url", "object"),
                _part(["image_url", "image"], "image", "object"),
            ]
        }
    )

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
    role: Annotated[
        Literal["system", "developer", "user", "assistant", "tool"],
        WithJsonSchema({"enum": ["system", "developer", "user", "assistant"], "type": "string"}),
    ]
    content: Content | None = None
    tool_calls: list[Any] | None = Field(None, json_schema_extra=_NO_ITEMS)


class JsonSchema(Wire):
    """strict: taken, and always so. name, description: for the caller."""

    name: str = Field(pattern="^[A-Za-z0-9_-]{1,64}$")
    description: Text | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: Flag | None = None


class ResponseFormat(Wire):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        return {"type": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_schema_is_there(self) -> Self:
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("json_schema: must be given where type is 'json_schema'")
        if self.type != "json_schema" and self.json_schema is not None:
            raise ValueError(f"json_schema: not with type {self.type!r}")
        return self


class StreamOptions(Wire):
    include_usage: Flag | None = None
    include_timings: Flag | None = None


class ChatCompletionsRequest(Parameters):
    """POST /chat/completions. Keys that are not fields are kept for `extra-parameters` to judge."""

    model_config = ConfigDict(extra="allow")

    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    model: str | None = Field(None, description="Any name; there is one model.")
    stream: Flag | None = None
    stream_options: StreamOptions | None = Field(
        None,
        description="Extra parameter. On OpenAI's routes include_usage asks for a last event with "
        "the usage; on Azure's the last event carries it anyway. include_timings adds timings_ms "
        "to the last event: milliseconds of each stage, as server-timing names them.",
    )
    response_format: ResponseFormat | None = None
    tools: list[Any] | None = Field(None, json_schema_extra=_NO_ITEMS)
    tool_choice: Annotated[Any, WithJsonSchema({"enum": ["none", None]})] = None

    @property
    def has_pictures(self) -> bool:
        lists = [m.content for m in self.messages if isinstance(m.content, list)]
        return any(part.type != "text" for parts in lists for part in parts)

    @property
    def includes_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def includes_timings(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_timings)


class TaskParameters(Parameters):
    """Ours under their own names, and those that Azure ML's task format has."""

    model_config = ConfigDict(extra="forbid")

    max_new_tokens: int | None = Field(None, ge=1, description="max_tokens.")
    max_gen_len: int | None = Field(None, ge=1, description="max_tokens, by an older name.")
    do_sample: Flag | None = Field(None, description="False is temperature 0.")
    return_full_text: Literal[False] | None = Field(None, description="The answer alone is given.")

    @field_validator("max_new_tokens", "max_gen_len", mode="before")
    @classmethod
    def _lengths_are_no_bools(cls, value: Any) -> Any:
        return not_bool(value)

    def to_parameters(self) -> dict[str, Any]:
        """Under the chat API's names."""
        named = self.model_dump(exclude_none=True)
        named.pop("return_full_text", None)
        for name in ("max_gen_len", "max_new_tokens"):
            if name in named:
                named["max_tokens"] = named.pop(name)
        if named.pop("do_sample", True) is False:
            named["temperature"] = 0.0
        return named


class TaskInput(Wire):
    input_string: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    parameters: TaskParameters | None = None


class TaskRequest(Wire):
    """Azure ML's task format, answered with `{"output": text}`."""

    input_data: TaskInput

    def to_chat_request(self) -> ChatCompletionsRequest:
        parameters = self.input_data.parameters
        named = parameters.to_parameters() if parameters else {}
        messages = self.input_data.input_string
        return ChatCompletionsRequest.model_validate({"messages": messages, **named})


def _kind_of_score(value: Any) -> str:
    return "task" if isinstance(value, dict) and "input_data" in value else "chat"


# pydantic names them in an error's place, where they mean nothing to a caller.
SCORE_TAGS = ("task", "chat")
ScoreRequest = Annotated[
    Annotated[TaskRequest, Tag("task")] | Annotated[ChatCompletionsRequest, Tag("chat")],
    Discriminator(_kind_of_score),
]
