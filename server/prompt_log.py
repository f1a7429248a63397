"""Conversations in the log, where --log-prompts asks for them; pictures by size and hash."""

import hashlib
import logging
from typing import Any

from .schemas import ChatCompletionsRequest, ContentPart, Message

logger = logging.getLogger(__name__)


def log_prompt(chat: ChatCompletionsRequest, request_id: str) -> None:
    messages = [{"role": m.role, "content": _content(m)} for m in chat.messages]
    logger.info("prompt", extra={"fields": {"id": request_id, "messages": messages}})


def _content(message: Message) -> Any:
    if not isinstance(message.content, list):
        return message.content
    return [_part(part) for part in message.content]


def _part(part: ContentPart) -> str:
    image = part.image_url or part.image
    if image is None:
        return part.text or part.type
    if not image.url.startswith("data:"):
        return f"image {image.url}"
    url = image.url.encode()
    return f"image of {len(url)} base64 bytes, sha256 {hashlib.sha256(url).hexdigest()}"
