"""The model that is trained is the model that is served."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from model_config import ModelConfig, from_checkpoint
from scoring.demo_model import DEMO
from scoring.image_processor import to_hd_picture
from scoring.models.phi3_vision import Phi3VisionForCausalLM
from scoring.prompt import ChatImage, ChatMessage
from scoring.sequence import ImageSpan, SamplingParams, Sequence
from scoring.weights import load_model
from tools.train_demo import dense
from tools.train_demo.canvas import Mark
from tools.train_demo.placement import Placement
from tools.train_demo.rows import Row, RowBuilder

from ..http.pictures import colourful
from ..parity.test_forward import forward

QUESTIONS = ("What color is it?", "What does it say?", "Describe the picture.")
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return from_checkpoint(DEMO)


@pytest.fixture(scope="module")
def model(config: ModelConfig) -> Phi3VisionForCausalLM:
    return load_model(DEMO, config, torch.device("cpu"), torch.float32, lambda done, total: None)


def conversation(question: str, image: Image.Image | None) -> list[ChatMessage]:
    images = (ChatImage(image),) if image else ()
    return [ChatMessage("user", question, images), ChatMessage("assistant", "It is a red circle.")]


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (400, 130), (64, 64)])
def test_logits_in_training_are_those_of_the_engine(
    model: Phi3VisionForCausalLM, config: ModelConfig, size: tuple[int, int]
) -> None:
    """Several questions share a row and a picture there; the engine is asked one at a time."""
    image = colourful(*size)
    builder = RowBuilder(DEMO, config)
    together = builder.row_of([conversation(text, image) for text in QUESTIONS], ["", "", ""])
    alone = [builder.row_of([conversation(text, image)], [""]) for text in QUESTIONS]
    batch = dense.to_batch([together])
    with torch.inference_mode():
        trained = dense.answer(model, batch, dense.see(model, batch.pictures))[0].numpy()
    served = np.concatenate([engine_logits(model, config, row, image) for row in alone])
    np.testing.assert_allclose(trained, served, rtol=0, atol=TOLERANCE)


def engine_logits(
    model: Phi3VisionForCausalLM, config: ModelConfig, row: Row, image: Image.Image
) -> np.ndarray:
    """At the tokens before each of the answer's."""
    span = ImageSpan(to_hd_picture(image, config.vision), row.token_ids.index(-1))
    sequence = Sequence("row", row.token_ids, SamplingParams(max_tokens=1), (span,))
    before = [index - 1 for index, is_answer in enumerate(row.is_answer) if is_answer]
    return forward(model, config, sequence).logits(slice(None))[before]


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (400, 130), (64, 64)])
@pytest.mark.parametrize("place", [(0.1, 0.1), (0.45, 0.55), (0.95, 0.6)])
def test_a_mark_is_placed_where_the_model_sees_it(
    model: Phi3VisionForCausalLM,
    config: ModelConfig,
    size: tuple[int, int],
    place: tuple[float, float],
) -> None:
    x, y = (share * side for share, side in zip(place, size, strict=True))
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).ellipse((x - 5, y - 5, x + 5, y + 5), fill="black")
    pixels = torch.tensor(to_hd_picture(image, config.vision).pixels)
    placement = Placement(*size, tuple(pixels.shape), config.vision)
    side = config.vision.tokens_per_side
    light = F.adaptive_avg_pool2d(model.to_crops(pixels).mean(1, keepdim=True), side)[:, 0]
    darkest_of_crops = light[1:].argmin() + side**2
    tokens = placement.slots(Mark("circle", "black", x, y, 10))
    expected = [position_of(model, config, int(darkest_of_crops), light.numel(), len(pixels))]
    if len(tokens) > 1:
        expected.append(
            position_of(model, config, int(light[0].argmin()), light.numel(), len(pixels))
        )
    assert list(tokens) == expected


def test_what_the_edge_of_two_crops_cuts_is_placed_in_both(config: ModelConfig) -> None:
    size, middle = (200, 200), 100.0
    pixels = to_hd_picture(Image.new("RGB", size), config.vision).pixels
    placement = Placement(*size, pixels.shape, config.vision)

    def slots(y: float, height: float) -> tuple[int, ...]:
        return placement.slots(Mark("A", "black", 30.0, y, height))

    above, below = slots(middle - 1, 2.0), slots(middle + 1, 2.0)
    assert above != below
    *in_crops, _in_overview = slots(middle - 5, 80.0)
    assert tuple(in_crops) == above + below
    *in_crops, _in_overview = slots(middle - 30, 80.0)
    assert len(in_crops) == 1


def position_of(
    model: Phi3VisionForCausalLM, config: ModelConfig, index: int, count: int, height: int
) -> int:
    """Where the decoder reads a token of all crops': where its features change with the token."""
    side, width = config.vision.tokens_per_side, 4 * config.vision.hidden_size
    tokens = torch.zeros(count, width)
    shape = (-1, side, side, width)
    with torch.inference_mode():
        before = model.project_image(tokens.view(shape), height)
        tokens[index] = 1
        after = model.project_image(tokens.view(shape), height)
    changed = (before != after).any(1).nonzero().flatten().tolist()
    assert len(changed) == 1
    return int(changed[0])


def test_the_weights_are_small_enough_for_the_package() -> None:
    assert (DEMO / "model.safetensors").stat().st_size <= 16_000_000
