"""Where a drawing's marks come to lie among the tokens of its picture."""

from model_config import VisionConfig

from .canvas import Mark

# A character or shape lower than that cannot be told, in pixels of a view.
_SMALLEST = 7.0
# Of a mark's height, for that part to be told by itself.
_LEAST_PART = 0.3


class Placement:
    """Of one drawing in its HD picture. Places are rows and columns of tokens."""

    def __init__(
        self, width: int, height: int, shape: tuple[int, ...], vision: VisionConfig
    ) -> None:
        """width, height: of the drawing. shape: of the HD picture. All in pixels."""
        self._hd_height, self._hd_width = shape[:2]
        self.side, self._crop = vision.tokens_per_side, vision.crop_size
        self.crop_rows = self._hd_height // self._crop
        self.crop_cols = self._hd_width // self._crop
        # The drawing was scaled to fill the HD picture one way, and padded the other.
        self._scale = min(self._hd_width / width, self._hd_height / height)
        self._pad_x = (self._hd_width - width * self._scale) / 2
        self._pad_y = (self._hd_height - height * self._scale) / 2

    def in_crops(self, mark: Mark) -> list[tuple[int, int]]:
        """Among all crops' tokens, side by side. Two places if the edge between an upper and a
        lower crop cuts the mark: neither crop shows all of it."""
        rows = self.crop_rows * self.side
        row, col = self._place(mark, rows, self.crop_cols * self.side)
        y, height = mark.y * self._scale + self._pad_y, mark.height * self._scale
        edge = round(y / self._crop) * self._crop
        is_cut = 0 < edge < self._hd_height and abs(edge - y) < height * (0.5 - _LEAST_PART)
        if not is_cut:
            return [(row, col)]
        below = edge * rows // self._hd_height
        return [(below - 1, col), (below, col)]

    def in_overview(self, mark: Mark) -> tuple[int, int]:
        """Among the global view's."""
        return self._place(mark, self.side, self.side)

    def told_in_crops(self, mark: Mark) -> bool:
        return mark.height * self._scale >= _SMALLEST

    def told_in_overview(self, mark: Mark) -> bool:
        shrunk = max(self.crop_rows, self.crop_cols)
        return mark.height * self._scale / shrunk >= _SMALLEST

    def slots(self, mark: Mark) -> tuple[int, ...]:
        """The tokens that show it, as the prompt counts the picture's: crops, a separator, the
        global view; every row closed by a separator."""
        line = self.crop_cols * self.side + 1
        found = [row * line + col for row, col in self.in_crops(mark)]
        if self.told_in_overview(mark):
            row, col = self.in_overview(mark)
            found.append(self.crop_rows * self.side * line + 1 + row * (self.side + 1) + col)
        return tuple(found)

    def _place(self, mark: Mark, rows: int, cols: int) -> tuple[int, int]:
        x = (mark.x * self._scale + self._pad_x) / self._hd_width
        y = (mark.y * self._scale + self._pad_y) / self._hd_height
        return min(rows - 1, max(0, int(y * rows))), min(cols - 1, max(0, int(x * cols)))
