"""A step's rows → tensors → forward → sampled tokens; and the cache of picture features."""

from collections import OrderedDict
from collections.abc import Sequence as Items

import torch
from torch import Tensor

from .batch import to_flat_batch
from .encoder_progress import EncoderJob
from .image_processor import HDPicture
from .kv_cache import KVCache
from .models.attention import AttentionBackend
from .models.kernels import EAGER, Kernels
from .models.phi3_vision import Phi3VisionForCausalLM
from .sampler import sample
from .scheduler import SampledToken, ScheduledRow

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


class ModelRunner:
    """The only place where a step touches the device."""

    def __init__(
        self,
        model: Phi3VisionForCausalLM,
        cache: KVCache,
        attention: AttentionBackend,
        *,
        feature_cache_bytes: int,
        kernels: Kernels = EAGER,
    ) -> None:
        self._model = model
        self._cache = cache
        self._attention = attention
        self._kernels = kernels
        embeddings = model.model.embed_tokens
        self._device = embeddings.weight.device
        self.device_type = self._device.type
        self.vocab_size = embeddings.num_embeddings
        self.features = FeatureCache(feature_cache_bytes)
        self.num_pictures_encoded = 0
        # Of pictures being encoded: the tower's input, and its output so far, crop by crop.
        self._inputs: dict[bytes, Tensor] = {}
        self._partial: dict[bytes, list[Tensor]] = {}

    @torch.inference_mode()
    def execute(self, rows: Items[ScheduledRow]) -> list[SampledToken | None]:
        """Compute the rows; a token for each that emits, None for the others."""
        self._encode([job for row in rows for job in row.crops])
        rows_with_tokens = [row for row in rows if row.num_tokens]
        if not rows_with_tokens:
            return [None] * len(rows)
        batch = to_flat_batch(rows_with_tokens, self._cache.block_size, self._device)
        embeddings = self._model.embed(batch.input_ids)
        self._place_features(embeddings, rows_with_tokens)
        hidden = self._model(
            embeddings, batch, self._cache, self._attention, self._kernels, last_only=True
        )
        emitting = [row.sequence for row in rows if row.emits]
        if not emitting:
            return [None] * len(rows)
        tokens = iter(sample(self._model.logits(hidden), emitting))
        return [next(tokens) if row.emits else None for row in rows]

    def release_memory(self) -> None:
        """After a failed step, an out-of-memory error say: give back what can be given back, and
        forget pictures half encoded."""
        self._inputs.clear()
        self._partial.clear()
        if self.device_type == "cuda":
            torch.cuda.empty_cache()

    def _place_features(self, embeddings: Tensor, rows: Items[ScheduledRow]) -> None:
        """Write picture features over the embeddings of the slots that lie in this step."""
        offset = 0
        for row in rows:
            for span in row.sequence.images:
                start, end = max(span.start, row.start), min(span.end, row.end)
                if start < end:
                    features = self._features_of(span.picture)[
                        start - span.start : end - span.start
                    ]
                    first = offset + start - row.start
                    embeddings[first : first + end - start] = features
            offset += row.num_tokens

    def _features_of(self, picture: HDPicture) -> Tensor:
        """(num_tokens, hidden). The scheduler has had the picture encoded; if its features were
        evicted since, it is encoded once more, whole."""
        features = self.features.get(picture.digest)
        if features is None:
            num_crops = len(self._crops(picture))
            self._encode([EncoderJob(picture, 0, num_crops, num_crops)])
            features = self.features.get(picture.digest)
        if features is None or len(features) != picture.num_tokens:
            raise AssertionError(f"no features for the picture's {picture.num_tokens} slots")
        return features

    def _encode(self, jobs: list[EncoderJob]) -> None:
        """Run the jobs' crops through the tower in one batch; finish pictures that are complete."""
        jobs = [job for job in jobs if self.features.get(job.picture.digest) is None]
        if not jobs:
            return
        # A job may follow on crops that were dropped meanwhile: begin where they end.
        partial = [self._partial.setdefault(job.picture.digest, []) for job in jobs]
        todo = [
            self._crops(job.picture)[len(tokens) : job.end]
            for job, tokens in zip(jobs, partial, strict=True)
        ]
        merged = self._model.encode_crops(torch.cat(todo))
        encoded = torch.split(merged, [len(crops) for crops in todo])
        for job, tokens, new in zip(jobs, partial, encoded, strict=True):
            tokens += new
            if len(tokens) == job.num_crops:
                height = job.picture.pixels.shape[0]
                self.features.put(
                    job.picture.digest, self._model.project_image(torch.stack(tokens), height)
                )
                self.num_pictures_encoded += 1
                del self._partial[job.picture.digest]
                del self._inputs[job.picture.digest]
        while len(self._inputs) > _MAX_PICTURES_IN_WORK:
            digest = next(iter(self._inputs))
            del self._inputs[digest]
            self._partial.pop(digest, None)

    def _crops(self, picture: HDPicture) -> Tensor:
        """The tower's input, (crops, 3, crop, crop), kept until the picture is encoded."""
        if picture.digest not in self._inputs:
            pixels = torch.tensor(picture.pixels).to(self._device, non_blocking=True)
            self._inputs[picture.digest] = self._model.to_crops(pixels)
        return self._inputs[picture.digest]
