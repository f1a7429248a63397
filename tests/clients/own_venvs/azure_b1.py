"""azure-ai-inference 1.0.0b1, of the time of the published how-to, called as it calls it."""

from typing import Any

from azure.ai.inference import ChatCompletionsClient
from azure.ai.inference.models import ChatCompletionsResponseFormat, SystemMessage, UserMessage
from azure.core.credentials import AzureKeyCredential
from lines import answer_lines

MESSAGES = {"system": SystemMessage, "user": UserMessage}


def complete(given: dict[str, Any], **parameters: Any) -> Any:
    turns = [MESSAGES[role](content=content) for role, content in given["turns"]]
    client = ChatCompletionsClient(given["endpoint"], AzureKeyCredential(given["key"]))
    return client.complete(messages=turns, **given.get("parameters", {}), **parameters)


def info(given: dict[str, Any]) -> dict[str, Any]:
    client = ChatCompletionsClient(given["endpoint"], AzureKeyCredential(given["key"]))
    return client.get_model_info().as_dict()


def stream(given: dict[str, Any]) -> list[str]:
    """The pieces that the how-to's helper prints."""
    return [update.choices[0].delta.content for update in complete(given, stream=True)]


answer_lines(
    {
        "info": info,
        "complete": lambda given: complete(given).as_dict(),
        "complete_as_text": lambda given: complete(
            given, response_format=ChatCompletionsResponseFormat.TEXT
        ).as_dict(),
        "stream": stream,
    }
)
