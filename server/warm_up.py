"""A chat of each kind before the first caller's: what is imported, compiled or allocated at first
use is there by then, on both sides."""

import base64
import io
import logging
from contextlib import aclosing
from typing import Any

from PIL import Image

from scoring.engine_client import EngineClient
from scoring.errors import ScoringError

from .completion import Processor, start_completion
from .errors import APIError
from .request_record import RequestRecord
from .schemas import ChatCompletionsRequest

logger = logging.getLogger(__name__)


async def warm_up(engine: EngineClient, processor: Processor) -> None:
    """Answer a chat, one about a picture, and one in JSON. A failure is the log's matter: callers
    will see for themselves."""
    for parameters in _chats():
        chat = ChatCompletionsRequest(max_tokens=2, **parameters)
        try:
            completion = await start_completion(chat, processor, engine, RequestRecord())
            async with aclosing(completion.deltas(engine)) as deltas:
                async for _ in deltas:
                    pass
        except (APIError, ScoringError) as error:
            logger.warning("warming up failed: %s", error)


def _chats() -> list[dict[str, Any]]:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "white").save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    picture = {"type": "image_url", "image_url": {"url": url, "detail": "low"}}
    text = {"type": "text", "text": "Hello"}
    return [
        {"messages": [{"role": "user", "content": [text]}]},
        {"messages": [{"role": "user", "content": [text, picture]}]},
        {
            "messages": [{"role": "user", "content": [text]}],
            "response_format": {"type": "json_object"},
        },
    ]
