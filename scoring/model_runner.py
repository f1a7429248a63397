"""A step's rows → tensors → forward → sampled tokens."""

from collections.abc import Sequence as Items

import torch
from torch import Tensor

from .batch import to_flat_batch
from .kv_cache import KVCache
from .models.attention.interface import AttentionBackend
from .models.kernels import EAGER, Kernels
from .models.phi3_vision import Phi3VisionForCausalLM
from .picture_encoder import PictureEncoder
from .sampler import sample
from .scheduler import SampledToken, ScheduledRow


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
        self._pictures = PictureEncoder(model, self._device, feature_cache_bytes)
        self.features = self._pictures.features

    @property
    def num_pictures_encoded(self) -> int:
        return self._pictures.num_pictures_encoded

    @torch.inference_mode()
    def execute(self, rows: Items[ScheduledRow]) -> list[SampledToken | None]:
        """Compute the rows; a token for each that emits, None for the others."""
        self._pictures.encode([job for row in rows for job in row.encoder_jobs])
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
        self._pictures.forget_unfinished()
        if self.device_type == "cuda":
            torch.cuda.empty_cache()

    def _place_features(self, embeddings: Tensor, rows: Items[ScheduledRow]) -> None:
        """Write picture features over the embeddings of the slots that lie in this step."""
        offset = 0
        for row in rows:
            for span in row.sequence.images:
                start, end = max(span.start, row.start), min(span.end, row.end)
                if start < end:
                    features = self._pictures.features_of(span.picture)[
                        start - span.start : end - span.start
                    ]
                    first = offset + start - row.start
                    embeddings[first : first + end - start] = features
            offset += row.num_tokens
