"""What a model is: its card (names and rules) and its checkpoint's sizes. Imports neither torch
nor the other packages."""

from .card import Card, card_for, card_ids, card_of_hub_id, load_card
from .checkpoint import ModelConfig, RopeScaling, TextConfig, VisionConfig, from_checkpoint
from .errors import ModelConfigError, UnknownCardError, UnsupportedConfigError

__all__ = [
    "Card",
    "ModelConfig",
    "ModelConfigError",
    "RopeScaling",
    "TextConfig",
    "UnknownCardError",
    "UnsupportedConfigError",
    "VisionConfig",
    "card_for",
    "card_ids",
    "card_of_hub_id",
    "from_checkpoint",
    "load_card",
]
