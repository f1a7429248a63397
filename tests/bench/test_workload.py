"""Synthetic conversations: repeatable, all different, and of the size asked for."""

import base64
import io

import pytest
from PIL import Image

from benchmark.load.workload import Conversation, Workload


def make(mix: str, seed: int = 1, **sizes: int) -> Workload:
    chosen = {"prompt_tokens": 64, "max_tokens": 8, "turns": 3, "image_px": 96, **sizes}
    return Workload(mix, seed=seed, **chosen)


def picture_of(conversation: Conversation) -> Image.Image:
    image, _ = conversation.contents[0]
    data = base64.b64decode(image["image_url"]["url"].removeprefix("data:image/jpeg;base64,"))
    return Image.open(io.BytesIO(data))


def test_the_same_seed_and_number_is_the_same_conversation():
    for mix in ("text", "image", "multi-turn"):
        assert make(mix).conversation(4) == make(mix).conversation(4)
        assert make(mix).conversation(4) != make(mix).conversation(5)
        assert make(mix).conversation(4) != make(mix, seed=2).conversation(4)


def test_conversations_differ_from_their_first_word():
    """So no prefix cache knows them; and in what follows, too."""
    texts = [str(make("text").conversation(number).contents[0]).split() for number in range(50)]

    assert len({words[0] for words in texts}) == 50
    assert len({" ".join(words[1:]) for words in texts}) == 50


def test_pictures_differ_from_their_first_pixel_on():
    corners = {
        picture_of(make("image").conversation(number)).getpixel((0, 0)) for number in range(9)
    }

    assert len(corners) == 9


@pytest.mark.parametrize("num_tokens", [32, 125, 1000])
def test_prompts_are_about_as_long_as_asked_for(num_tokens):
    (text,) = make("text", prompt_tokens=num_tokens).conversation(0).contents

    assert abs(len(str(text).split()) - num_tokens) <= 16


def test_a_picture_is_a_drawing_of_the_size_asked_for():
    conversation = make("image").conversation(7)
    picture = picture_of(conversation)

    assert (picture.size, picture.format) == ((96, 96), "JPEG")
    assert len(picture.convert("RGB").getcolors(96 * 96) or ()) > 100
    assert [part["type"] for part in conversation.contents[0]] == ["image_url", "text"]


def test_the_mixed_load_has_a_third_of_each_kind():
    kinds = [make("mixed").conversation(number).kind for number in range(9)]

    assert sorted(kinds) == sorted(["text", "image", "multi-turn"] * 3)


def test_only_conversations_of_several_turns_have_them():
    lengths = {mix: len(make(mix).conversation(0).contents) for mix in ("text", "multi-turn")}

    assert lengths == {"text": 1, "multi-turn": 3}
