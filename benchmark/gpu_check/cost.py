"""What a step must read and compute at least, by the model's sizes.

A decode step cannot beat reading the weights and its rows' keys and values once; a prompt cannot
beat its matrix products. Fractions of these limits are limit ÷ measured.
"""

from collections.abc import Sequence as Items

from model_config import ModelConfig, TextConfig, VisionConfig


def weights_read(text: TextConfig) -> int:
    """Weights that a decode step reads: all of the decoder but the embeddings, of which it reads a
    row per sequence."""
    norms = text.hidden_size * (2 * text.num_layers + 1)
    per_layer = _attention_weights(text) + _mlp_weights(text)
    return text.num_layers * per_layer + norms + text.vocab_size * text.hidden_size


def prompt_flops(text: TextConfig, prompt_lens: Items[int]) -> int:
    """Of prompts in the decoder, up to one token each: two per weight and token; causal attention.
    What follows the last layer's keys and values is computed for the last token alone."""
    total = 0
    for length in prompt_lens:
        pairs = length * (length + 1) // 2
        attention = 4 * text.hidden_size
        whole = 2 * length * (_attention_weights(text) + _mlp_weights(text)) + attention * pairs
        keys = 3 * text.hidden_size**2
        rest = _attention_weights(text) + _mlp_weights(text) - keys
        final = 2 * length * keys + 2 * rest + attention * length
        head = 2 * text.vocab_size * text.hidden_size
        total += (text.num_layers - 1) * whole + final + head
    return total


def picture_flops(config: ModelConfig, num_crops: int, num_tokens: int) -> int:
    """Of one picture: num_crops through the tower (its global view is one), cut after its last
    layer but one, and num_tokens through the projection."""
    vision = config.vision
    width = vision.hidden_size
    patches = (vision.crop_size // vision.patch_size) ** 2
    length = patches + 1  # the class token
    weights = 4 * width**2 + 2 * width * vision.intermediate_size
    layer = 2 * length * weights + 4 * width * length**2
    crop = (vision.num_layers - 1) * layer + 2 * patches * width * 3 * vision.patch_size**2
    projection = 4 * width * config.text.hidden_size + config.text.hidden_size**2
    return num_crops * crop + 2 * num_tokens * projection


def num_crops(vision: VisionConfig, shape: Items[int]) -> int:
    """Of an HD picture of so many pixels (height, width, …), its global view included."""
    return 1 + (shape[0] // vision.crop_size) * (shape[1] // vision.crop_size)


def _attention_weights(text: TextConfig) -> int:
    return 4 * text.hidden_size**2


def _mlp_weights(text: TextConfig) -> int:
    return 3 * text.hidden_size * text.intermediate_size
