"""LangChain's models, each of which finds our routes by itself: `openai` from langchain-openai,
`azure` and `azure_openai` from langchain-azure-ai."""

import asyncio
from typing import Any

from langchain_azure_ai.chat_models import AzureAIOpenAIApiChatModel
from langchain_azure_ai.chat_models.inference import AzureAIChatCompletionsModel
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI
from lines import answer_lines
from pydantic import BaseModel


class Languages(BaseModel):
    """How many there are."""

    number: int
    sure: bool


TURNS = {"system": SystemMessage, "user": HumanMessage}


def model_of(given: dict[str, Any]) -> BaseChatModel:
    endpoint, key, parameters = given["endpoint"], given["key"], given["parameters"]
    match given["model"]:
        case "openai":
            return ChatOpenAI(base_url=f"{endpoint}/v1", api_key=key, model="any", **parameters)
        case "azure_openai":
            return AzureAIOpenAIApiChatModel(
                endpoint=f"{endpoint}/openai/v1", credential=key, model="any", **parameters
            )
        case "azure":
            return AzureAIChatCompletionsModel(endpoint=endpoint, credential=key, **parameters)
        case other:
            raise ValueError(other)


def turns_of(given: dict[str, Any]) -> list[Any]:
    return [TURNS[role](content) for role, content in given["turns"]]


def invoke(given: dict[str, Any]) -> dict[str, Any]:
    message = model_of(given).invoke(turns_of(given))
    return {"text": message.text, "usage": message.usage_metadata}


def stream(given: dict[str, Any]) -> list[str]:
    return [chunk.text for chunk in model_of(given).stream(turns_of(given))]


def astream(given: dict[str, Any]) -> list[str]:
    async def pieces() -> list[str]:
        return [chunk.text async for chunk in model_of(given).astream(turns_of(given))]

    return asyncio.run(pieces())


def structured(given: dict[str, Any]) -> dict[str, Any]:
    """Languages, which LangChain has made from the answer's JSON."""
    model = model_of(given).with_structured_output(Languages, method="json_schema")
    return model.invoke(turns_of(given)).model_dump()


answer_lines({"invoke": invoke, "stream": stream, "astream": astream, "structured": structured})
