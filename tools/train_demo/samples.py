"""The playground's sample pictures: unseen drawings, as the model is marked on them."""

import random
from pathlib import Path

from .charts import chart_drawing
from .drawings import EVALUATION
from .lettering import lettering_drawing
from .shapes import shapes_drawing

_SAMPLES = (
    ("shapes", shapes_drawing, 348),
    ("number", lettering_drawing, 5),
    ("chart", chart_drawing, 27),
)


def write_samples(directory: Path) -> None:
    for name, draw, seed in _SAMPLES:
        drawing = draw(random.Random(f"sample {seed}"), EVALUATION)
        drawing.image.save(directory / f"sample-{name}.png", optimize=True)
