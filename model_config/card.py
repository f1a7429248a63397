"""Model cards: the rules of a model that its weights do not state."""

import tomllib
from dataclasses import dataclass
from importlib import resources

from .errors import UnknownCardError

_DEFAULT_CARD = "phi-3-vision-128k-instruct"


@dataclass(frozen=True)
class Card:
    """One model's name and rules, read from `cards/<id>.toml`.

    hub_id, revision: where `phi3v download` finds the weights, pinned to a commit; None for a
    model that is not on the hub. images_per_turn, images_kept: the most images one message may
    carry, and how many of a conversation, counted from its end, reach the model.
    unsupported: request features answered with 422 `parameter_not_supported`.
    notice: what whoever uses it must know, shown wherever the model is named.
    """

    id: str
    served_name: str
    provider: str
    hub_id: str | None
    revision: str | None
    system_role: str
    images_per_turn: int
    images_kept: int
    stop_tokens: tuple[str, ...]
    temperature: float
    top_p: float
    max_tokens: int
    unsupported: frozenset[str]
    notice: str | None


def card_ids() -> list[str]:
    """The ids of all cards, sorted."""
    files = resources.files(__package__).joinpath("cards").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def load_card(card_id: str) -> Card:
    """Read one card. Raises UnknownCardError, naming the cards there are."""
    if card_id not in card_ids():
        raise UnknownCardError(f"card is {card_id!r}; there are {', '.join(card_ids())}")
    source = resources.files(__package__).joinpath("cards", f"{card_id}.toml")
    fields = tomllib.loads(source.read_text(encoding="utf-8"))
    prompt, sampling = fields["prompt"], fields["sampling"]
    return Card(
        id=card_id,
        served_name=fields["served_name"],
        provider=fields["provider"],
        hub_id=fields.get("hub_id"),
        revision=fields.get("revision"),
        system_role=prompt["system_role"],
        images_per_turn=prompt["images_per_turn"],
        images_kept=prompt["images_kept"],
        stop_tokens=tuple(prompt["stop_tokens"]),
        temperature=sampling["temperature"],
        top_p=sampling["top_p"],
        max_tokens=sampling["max_tokens"],
        unsupported=frozenset(fields["limits"]["unsupported"]),
        notice=fields.get("notice"),
    )


def card_for(name_or_path: str) -> Card:
    """The card of a checkpoint, by the `_name_or_path` of its config.json.

    A fine-tuned checkpoint carries any name: it gets Phi-3.5-vision's card where the name says
    3.5, else Phi-3-vision's.
    """
    name = name_or_path.rstrip("/").rsplit("/", 1)[-1].lower()
    if name in card_ids():
        return load_card(name)
    return load_card("phi-3.5-vision-instruct" if "3.5" in name else _DEFAULT_CARD)


def card_of_hub_id(hub_id: str) -> Card | None:
    """The card whose weights lie at this hub id, or None."""
    cards = (load_card(card_id) for card_id in card_ids())
    return next((card for card in cards if card.hub_id and card.hub_id == hub_id), None)
