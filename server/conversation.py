"""Messages off the wire → the turns that the prompt is built from."""

from collections.abc import Mapping

from model_config import Card
from scoring.prompt import ChatImage, ChatMessage

from .errors import InvalidRequestError, NotSupportedError
from .image_urls import is_url
from .images import load_image
from .schemas import ChatCompletionsRequest, ContentPart, ImageUrl, Message

_Loc = tuple[str, ...]


def urls_to_fetch(messages: list[Message], card: Card) -> list[tuple[str, _Loc]]:
    """The URLs of the pictures that will be kept and have to be fetched, with their places.

    Raises InvalidRequestError and NotSupportedError for what breaks the card's rules.
    """
    images = [image for turn in _kept_turns(messages, card) for image in turn.images]
    return [(image.url, loc) for image, loc in images if is_url(image.url)]


def to_chat_messages(
    request: ChatCompletionsRequest, card: Card, max_pixels: int, fetched: Mapping[str, bytes]
) -> list[ChatMessage]:
    """Check the card's rules and decode the pictures that will be kept; the others are not.

    fetched: the files at urls_to_fetch. Raises InvalidRequestError and NotSupportedError, naming
    the place. Takes as long as decoding does: run it in a worker thread.
    """
    chat = []
    for turn in _kept_turns(request.messages, card):
        images = tuple(
            ChatImage(
                load_image(image.url, max_pixels, loc, fetched.get(image.url)),
                1 if image.detail == "low" else request.num_crops,
            )
            for image, loc in turn.images
        )
        chat.append(ChatMessage(turn.role, turn.text, images))
    return chat


def _kept_turns(messages: list[Message], card: Card) -> list["_Turn"]:
    """The messages, checked, without the images beyond the last that the card keeps."""
    turns = [
        _Turn(message, ("body", "messages", str(index)), card)
        for index, message in enumerate(messages)
    ]
    surplus = sum(len(turn.images) for turn in turns) - card.images_kept
    for turn in turns:
        dropped = min(max(surplus, 0), len(turn.images))
        surplus -= dropped
        turn.images = turn.images[dropped:]
    return turns


class _Turn:
    """One message, checked: its role, its text, and its images with their places."""

    def __init__(self, message: Message, loc: _Loc, card: Card) -> None:
        if message.role == "tool" or message.tool_calls:
            raise NotSupportedError("this model has no tools", (*loc, "role"), message.role)
        self.role = message.role
        self.images: list[tuple[ImageUrl, _Loc]] = []
        if not isinstance(message.content, list):
            self.text = message.content or ""
            return
        texts = []
        for index, part in enumerate(message.content):
            part_loc = (*loc, "content", str(index))
            if part.type == "text" and part.text is not None:
                texts.append(part.text)
            else:
                self.images.append(_image(part, part_loc))
        if self.images and message.role != "user":
            raise InvalidRequestError(
                f"a message of role {message.role!r} cannot hold an image", self.images[0][1]
            )
        if len(self.images) > card.images_per_turn:
            raise NotSupportedError(
                f"{len(self.images)} images in one message; {card.served_name} takes "
                f"{card.images_per_turn} per message",
                (*loc, "content"),
            )
        self.text = "\n".join(texts)


def _image(part: ContentPart, loc: _Loc) -> tuple[ImageUrl, _Loc]:
    if part.type in ("input_audio", "audio_url"):
        raise NotSupportedError("this model hears no audio", (*loc, "type"), part.type)
    if part.type not in ("image_url", "image"):
        raise InvalidRequestError(
            f"type is {part.type[:64]!r}; it must be 'text' or 'image_url'", (*loc, "type")
        )
    image = part.image_url or part.image
    if image is None:
        raise InvalidRequestError("the part has no image_url.url", (*loc, "image_url"))
    return image, (*loc, "image_url", "url")
