"""How far which pictures have been through the tower. Pure Python.

The unit is a part of a crop: an equal share of the tower's layers, for one crop. All parts of a
crop come before the next crop's.
"""

from collections import OrderedDict
from dataclasses import dataclass

from .image_processor import HDPicture

CROP_PARTS = 6
_MAX_PICTURES_REMEMBERED = 4096


@dataclass(frozen=True)
class EncoderJob:
    """Parts first … end of a picture's num_parts; its global view is the first crop."""

    picture: HDPicture
    first: int
    end: int
    num_parts: int


class EncoderProgress:
    """How many parts of each picture have been encoded, as far as remembered. Forgetting, like an
    eviction of features that the runner keeps, costs a step that encodes a picture whole."""

    def __init__(self, crop_size: int) -> None:
        self._crop_size = crop_size
        self._num_done: OrderedDict[bytes, int] = OrderedDict()

    def next_job(self, picture: HDPicture, budget: int) -> EncoderJob | None:
        """The next parts to encode, at most budget; None for a finished picture or no budget."""
        height, width = picture.pixels.shape[:2]
        num_crops = 1 + (height // self._crop_size) * (width // self._crop_size)
        num_parts = num_crops * CROP_PARTS
        done = self._num_done.get(picture.digest, 0)
        end = min(done + budget, num_parts)
        return EncoderJob(picture, done, end, num_parts) if end > done else None

    def is_done(self, picture: HDPicture) -> bool:
        return self.next_job(picture, 1) is None

    def enter(self, job: EncoderJob) -> None:
        """The job is part of the next step."""
        self._num_done[job.picture.digest] = job.end
        self._num_done.move_to_end(job.picture.digest)
        if len(self._num_done) > _MAX_PICTURES_REMEMBERED:
            self._num_done.popitem(last=False)

    def forget(self, picture: HDPicture) -> None:
        self._num_done.pop(picture.digest, None)
