"""The demo model looks at the picture: real questions through the real client."""

import io
import json
from typing import Any

import pytest
from azure.ai.inference import ChatCompletionsClient
from azure.ai.inference.models import (
    AssistantMessage,
    ChatRequestMessage,
    ImageContentItem,
    ImageUrl,
    JsonSchemaFormat,
    TextContentItem,
    UserMessage,
)
from azure.core.exceptions import HttpResponseError
from PIL import Image, ImageDraw

from ..http.pictures import data_url
from ..http.running_server import PROJECT, RunningServer

RED, BLUE, GREEN = (220, 30, 35), (35, 80, 215), (35, 155, 60)


def drawing(color: tuple[int, int, int], *, is_round: bool) -> Image.Image:
    """One shape in the middle of a white picture."""
    image = Image.new("RGB", (300, 300), "white")
    draw = ImageDraw.Draw(image)
    (draw.ellipse if is_round else draw.rectangle)((90, 90, 210, 210), fill=color)
    return image


RED_CIRCLE, BLUE_SQUARE = drawing(RED, is_round=True), drawing(BLUE, is_round=False)
GREEN_CIRCLE = drawing(GREEN, is_round=True)


def turn(text: str, *images: Image.Image) -> UserMessage:
    items: list[Any] = [TextContentItem(text=text)]
    for image in images:
        file = io.BytesIO()
        image.save(file, "PNG")
        items.append(ImageContentItem(image_url=ImageUrl(url=data_url(file.getvalue()))))
    return UserMessage(content=items)


def answer(client: ChatCompletionsClient, *messages: ChatRequestMessage, **parameters: Any) -> str:
    response = client.complete(messages=list(messages), temperature=0, **parameters)
    assert response.choices[0].finish_reason == "stop"
    return str(response.choices[0].message.content)


@pytest.mark.parametrize(
    ("image", "color"), [(RED_CIRCLE, "red"), (BLUE_SQUARE, "blue"), (GREEN_CIRCLE, "green")]
)
def test_the_color_is_the_pictures(
    client: ChatCompletionsClient, image: Image.Image, color: str
) -> None:
    assert answer(client, turn("What color is it?", image)) == f"It is {color}."


@pytest.mark.parametrize(
    ("sample", "question", "words"),
    [
        ("shapes", "How many shapes are there?", "There are 4 shapes."),
        ("shapes", "What color is the circle?", "The circle is red."),
        ("shapes", "Where is the triangle?", "The triangle is at the bottom left."),
        ("number", "What number is this?", "The number is 8529."),
        ("number", "What color is the text?", "The text is blue."),
        ("chart", "Which bar is the highest?", "The highest bar is Q1."),
        ("chart", "What is the lowest value?", "The lowest value is 7."),
    ],
)
def test_shapes_numbers_and_charts_are_read(
    client: ChatCompletionsClient, sample: str, question: str, words: str
) -> None:
    """Of the playground's samples, which the model was not trained on."""
    image = Image.open(PROJECT / "server" / "playground" / f"sample-{sample}.png")
    assert answer(client, turn(question, image)) == words


def test_the_last_picture_of_a_chat_is_the_one_that_counts(client: ChatCompletionsClient) -> None:
    first, question = turn("What color is it?", RED_CIRCLE), turn("What color is it?", BLUE_SQUARE)
    told = answer(client, first)
    assert answer(client, first, AssistantMessage(content=told), question) == "It is blue."


def test_a_question_may_follow_without_the_picture_being_sent_again(
    client: ChatCompletionsClient,
) -> None:
    first = turn("What color is it?", BLUE_SQUARE)
    told = AssistantMessage(content=answer(client, first))
    assert answer(client, first, told, turn("What color is it?")) == "It is blue."


def test_two_pictures_in_one_turn_are_refused(client: ChatCompletionsClient) -> None:
    with pytest.raises(HttpResponseError, match="2 images in one message; phi3v-demo takes 1"):
        client.complete(messages=[turn("What color is it?", RED_CIRCLE, BLUE_SQUARE)])


@pytest.mark.parametrize("question", ["What color is it?", "Describe the picture."])
def test_without_a_picture_it_says_so(client: ChatCompletionsClient, question: str) -> None:
    told = answer(client, turn(question))
    assert told == "I see no picture. Please send one with your question."


def test_it_says_what_it_is(client: ChatCompletionsClient) -> None:
    assert "small demo model of phi3v-server" in answer(client, turn("Who are you?"))


@pytest.mark.parametrize(
    ("image", "shape", "color"),
    [(RED_CIRCLE, "circle", "red"), (BLUE_SQUARE, "square", "blue")],
    ids=["circle", "square"],
)
def test_an_answer_by_a_json_schema_is_valid_and_true(
    client: ChatCompletionsClient, image: Image.Image, shape: str, color: str
) -> None:
    text = {"type": "string"}
    schema = {
        "type": "object",
        "properties": {"shape": text, "color": text},
        "required": ["shape", "color"],
        "additionalProperties": False,
    }
    told = answer(
        client,
        turn("Answer as JSON with the keys shape and color.", image),
        response_format=JsonSchemaFormat(name="drawing", schema=schema, strict=True),
    )
    assert json.loads(told) == {"shape": shape, "color": color}


def test_a_stream_says_what_the_whole_answer_says(client: ChatCompletionsClient) -> None:
    messages = [turn("Describe the picture.", RED_CIRCLE)]
    whole = answer(client, *messages)
    with client.complete(messages=messages, temperature=0, stream=True) as updates:
        parts = [u.choices[0].delta.content for u in updates if u.choices]
    assert len(parts) > 3
    assert "".join(filter(None, parts)) == whole


def test_info_and_the_log_call_it_a_demo(
    client: ChatCompletionsClient, demo: RunningServer
) -> None:
    assert client.get_model_info()["notice"].startswith("DEMO: ")
    assert "serving the DEMO model" in demo.log
