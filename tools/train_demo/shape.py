"""A shape of a drawing: its kind, colour and place."""

from dataclasses import dataclass

from .canvas import Mark, Thing

KINDS = ("circle", "square", "triangle", "rectangle", "oval", "star", "diamond", "heart", "cross")
PLURALS = {kind: ("crosses" if kind == "cross" else kind + "s") for kind in KINDS}
# By column and row, in quarters of the picture from its left and its top.
PLACES = {
    (1, 1): "at the top left",
    (3, 1): "at the top right",
    (1, 3): "at the bottom left",
    (3, 3): "at the bottom right",
}
CENTER = (2, 2)
PLACE_NAMES = {**PLACES, CENTER: "in the center"}


@dataclass(frozen=True)
class Shape:
    """x, y: the centre; radius: half the extent; all in pixels. cell: its place in quarters."""

    kind: str
    color: str
    x: float
    y: float
    radius: float
    cell: tuple[int, int]

    @property
    def name(self) -> str:
        return f"{self.color} {self.kind}"

    @property
    def thing(self) -> Thing:
        return (Mark(self.kind, self.color, self.x, self.y, 2 * self.radius),)


def things_of(shapes: list[Shape]) -> list[Thing]:
    return [shape.thing for shape in shapes]
