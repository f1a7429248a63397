"""Whether an endpoint answers as it should, asked with Microsoft's own SDK: who it is, a chat, a
streamed chat, a question about a picture. Exit code 0 when all is well.

    pip install azure-ai-inference
    python deploy/smoke_test.py https://NAME.REGION.inference.ml.azure.com --key KEY
"""

import argparse
import base64
import os
import struct
import sys
import time
import zlib

from azure.ai.inference import ChatCompletionsClient
from azure.ai.inference.models import (
    ImageContentItem,
    ImageUrl,
    SystemMessage,
    TextContentItem,
    UserMessage,
)
from azure.core.credentials import AzureKeyCredential
from azure.core.exceptions import AzureError


def red_square(side: int = 64) -> str:
    """A PNG as a data URL."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    rows = (b"\0" + b"\xff\0\0" * side) * side
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    png += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(png).decode()


def check(client: ChatCompletionsClient) -> None:
    """Raise AzureError or AssertionError for what is not as it should be."""
    start = time.monotonic()
    info = client.get_model_info()
    print(f"model: {info.model_name} by {info.model_provider_name}")

    messages = [SystemMessage("Answer in one word."), UserMessage("What is the capital of France?")]
    answer = client.complete(messages=messages, max_tokens=16, temperature=0)
    text = answer.choices[0].message.content
    print(f"chat: {text!r}, {answer.usage.total_tokens} tokens")
    assert answer.usage.completion_tokens > 0, "no token was generated"

    stream = client.complete(messages=messages, max_tokens=16, temperature=0, stream=True)
    pieces = [update.choices[0].delta.content or "" for update in stream if update.choices]
    assert "".join(pieces) == text, f"streamed {''.join(pieces)!r}, whole {text!r}"
    print("stream: the same")

    question = TextContentItem(text="Which colour is this?")
    picture = ImageContentItem(image_url=ImageUrl(url=red_square()))
    answer = client.complete(messages=[UserMessage([question, picture])], max_tokens=16)
    image_tokens = answer.usage["prompt_tokens_details"]["image_tokens"]
    print(f"picture: {answer.choices[0].message.content!r}, of {image_tokens} tokens")
    assert image_tokens > 0, "the picture took no tokens"
    print(f"all is well, after {time.monotonic() - start:.1f} s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("endpoint", help="its address, without /score")
    parser.add_argument("--key", default=os.environ.get("PHI3V_API_KEY", "none"))
    parser.add_argument("--deployment", help="this one of the endpoint's, whatever its traffic")
    chosen = parser.parse_args()
    headers = {}
    if chosen.deployment:
        headers["azureml-model-deployment"] = chosen.deployment
    endpoint, credential = chosen.endpoint, AzureKeyCredential(chosen.key)
    try:
        with ChatCompletionsClient(endpoint, credential, headers=headers) as client:
            check(client)
    except (AzureError, AssertionError) as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
