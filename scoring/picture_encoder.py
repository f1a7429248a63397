"""Pictures → features: the tower, portion by portion, and the cache of what comes out."""

from collections import OrderedDict
from collections.abc import Sequence as Items
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .encoder_progress import CROP_PARTS, EncoderJob
from .image_processor import HDPicture
from .models.phi3_vision import Phi3VisionForCausalLM
from .transfers import to_device

# An aborted request leaves a picture half encoded; the oldest of so many are dropped.
_MAX_PICTURES_IN_WORK = 64


class FeatureCache:
    """Picture features by the picture's digest, least recently used first, bounded in bytes.

    The newest picture stays even where it alone exceeds the bound: its prompt needs it for as many
    steps as it has chunks."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._features: OrderedDict[bytes, Tensor] = OrderedDict()

    def get(self, digest: bytes) -> Tensor | None:
        features = self._features.get(digest)
        if features is not None:
            self._features.move_to_end(digest)
        return features

    def put(self, digest: bytes, features: Tensor) -> None:
        if digest in self._features:
            return
        self._features[digest] = features
        self.num_bytes += features.nbytes
        while self.num_bytes > self.max_bytes and len(self._features) > 1:
            _, evicted = self._features.popitem(last=False)
            self.num_bytes -= evicted.nbytes

    def clear(self) -> None:
        self._features.clear()
        self.num_bytes = 0


@dataclass
class _Work:
    """A picture on its way: the tower's input, (crops, 3, crop, crop); its output so far, merged
    tokens crop by crop; and the next crop's state, where some parts of the tower are done."""

    crops: Tensor
    tokens: list[Tensor] = field(default_factory=list)
    hidden: Tensor | None = None
    hidden_parts: int = 0

    @property
    def num_done(self) -> int:
        """In parts of crops."""
        return len(self.tokens) * CROP_PARTS + self.hidden_parts


class PictureEncoder:
    """Runs encoder jobs; finished pictures' features go to the cache."""

    def __init__(
        self, model: Phi3VisionForCausalLM, device: torch.device, feature_cache_bytes: int
    ) -> None:
        self._model = model
        self._device = device
        self.features = FeatureCache(feature_cache_bytes)
        self.num_pictures_encoded = 0
        self._in_work: OrderedDict[bytes, _Work] = OrderedDict()

    def features_of(self, picture: HDPicture) -> Tensor:
        """(num_tokens, hidden). The scheduler has had the picture encoded; if its features were
        evicted since, it is encoded once more, whole."""
        features = self.features.get(picture.digest)
        if features is None:
            num_parts = len(self._work_on(picture).crops) * CROP_PARTS
            self.encode([EncoderJob(picture, 0, num_parts, num_parts)])
            features = self.features.get(picture.digest)
        if features is None or len(features) != picture.num_tokens:
            raise AssertionError(f"no features for the picture's {picture.num_tokens} slots")
        return features

    def encode(self, jobs: Items[EncoderJob]) -> None:
        """Run the jobs' parts, whole crops of all pictures in one batch; finish pictures that are
        complete. A job may follow on parts that were dropped meanwhile: begins where they end."""
        jobs = [job for job in jobs if self.features.get(job.picture.digest) is None]
        works = [self._work_on(job.picture) for job in jobs]
        for job, work in zip(jobs, works, strict=True):
            if work.hidden is not None:
                self._run_parts(work, job.end)
        self._run_whole_crops(jobs, works)
        for job, work in zip(jobs, works, strict=True):
            if work.hidden is None and work.num_done < job.end:
                crop = len(work.tokens)
                work.hidden = self._model.tower.embed(work.crops[crop : crop + 1])
                self._run_parts(work, job.end)
            if work.num_done == job.num_parts:
                self._finish(job.picture, work)
        while len(self._in_work) > _MAX_PICTURES_IN_WORK:
            self._in_work.popitem(last=False)

    def forget_all(self) -> None:
        """Give back the memory of all pictures, half encoded ones included. Those that are wanted
        again are encoded again."""
        self._in_work.clear()
        self.features.clear()

    def _run_parts(self, work: _Work, end: int) -> None:
        """Go on with the crop that has been begun, as far as the job's end allows."""
        assert work.hidden is not None
        stop = min(CROP_PARTS, end - len(work.tokens) * CROP_PARTS)
        if stop > work.hidden_parts:
            work.hidden = self._model.tower.run(work.hidden, work.hidden_parts, stop, CROP_PARTS)
            work.hidden_parts = stop
        if work.hidden_parts == CROP_PARTS:
            work.tokens += self._model.merge(work.hidden)
            work.hidden, work.hidden_parts = None, 0

    def _run_whole_crops(self, jobs: Items[EncoderJob], works: Items[_Work]) -> None:
        todo = [
            work.crops[len(work.tokens) : job.end // CROP_PARTS if work.hidden is None else 0]
            for job, work in zip(jobs, works, strict=True)
        ]
        if not any(len(crops) for crops in todo):
            return
        hidden = self._model.tower(torch.cat(todo))
        merged = torch.split(self._model.merge(hidden), [len(crops) for crops in todo])
        for work, tokens in zip(works, merged, strict=True):
            work.tokens += tokens

    def _finish(self, picture: HDPicture, work: _Work) -> None:
        height = picture.pixels.shape[0]
        features = self._model.project_image(torch.stack(work.tokens), height)
        self.features.put(picture.digest, features)
        self.num_pictures_encoded += 1
        del self._in_work[picture.digest]

    def _work_on(self, picture: HDPicture) -> _Work:
        if picture.digest not in self._in_work:
            pixels = to_device(torch.tensor(picture.pixels), self._device)
            self._in_work[picture.digest] = _Work(self._model.to_crops(pixels))
        return self._in_work[picture.digest]
