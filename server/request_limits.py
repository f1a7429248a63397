"""How much one request may hold, checked before anything of it is decoded or tokenized."""

from dataclasses import dataclass

from .errors import InvalidRequestError, TooLargeError
from .schemas import ChatCompletionsRequest, Message
from .settings import Settings


@dataclass(frozen=True)
class RequestLimits:
    """Bytes and numbers; image_bytes are those of the file, not of its base64."""

    max_text_bytes: int
    max_images: int
    max_image_bytes: int

    def check(self, request: ChatCompletionsRequest) -> None:
        """Raises TooLargeError and InvalidRequestError."""
        texts, urls = [], []
        for number, message in enumerate(request.messages):
            texts += _texts(message)
            urls += _urls(message, number)
        if len(urls) > self.max_images:
            raise InvalidRequestError(
                f"the request has {len(urls)} images; {self.max_images} are allowed",
                ("body", "messages"),
            )
        # Characters are cheap to count, and bytes are at most four times as many.
        if sum(map(len, texts)) * 4 > self.max_text_bytes:
            num_bytes = sum(len(text.encode()) for text in texts)
            if num_bytes > self.max_text_bytes:
                raise TooLargeError(
                    f"the messages have {num_bytes} bytes of text; "
                    f"{self.max_text_bytes} are allowed",
                    ("body", "messages"),
                )
        for url, loc in urls:
            # Of a data URL this is the file's size, but for a few bytes of header.
            num_bytes = len(url) * 3 // 4
            if num_bytes - 64 > self.max_image_bytes:
                raise TooLargeError(
                    f"the image has {num_bytes / 2**20:.1f} MiB; "
                    f"{self.max_image_bytes / 2**20:g} are allowed",
                    loc,
                )


def request_limits(settings: Settings) -> RequestLimits:
    """The settings' part of it, in bytes."""
    return RequestLimits(
        max_text_bytes=settings.max_text_kib << 10,
        max_images=settings.max_images,
        max_image_bytes=settings.max_image_mib << 20,
    )


def _texts(message: Message) -> list[str]:
    if isinstance(message.content, list):
        return [part.text for part in message.content if part.text is not None]
    return [message.content or ""]


def _urls(message: Message, number: int) -> list[tuple[str, tuple[str, ...]]]:
    """The images' URLs with their places."""
    if not isinstance(message.content, list):
        return []
    place = ("body", "messages", str(number), "content")
    images = [(part.image_url or part.image, index) for index, part in enumerate(message.content)]
    return [(image.url, (*place, str(at), "image_url", "url")) for image, at in images if image]
