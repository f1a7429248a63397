"""A step's rows → tensors → forward → sampled tokens."""

from collections.abc import Sequence as Items

import torch
from torch import Tensor

from .batch import FlatBatch, to_flat_batch
from .kv_cache import KVCache
from .models.attention.interface import AttentionBackend
from .models.kernels import EAGER, Kernels
from .models.phi3_vision import Phi3VisionForCausalLM
from .picture_encoder import PictureEncoder
from .sampler import Choose, select, to_sampled
from .scheduler import SampledToken, ScheduledRow
from .sequence import Sequence
from .static_decode import MakeGraph, StaticDecode
from .transfers import HostCopies, HostCopy, host_copies, to_device


class ModelRunner:
    """The only place where a step touches the device. A Runner, in the sense of step.py.

    Steps of decodes alone can run as captured graphs, over buffers that never move; all others, and
    everything where nothing is captured, as flat batches.
    """

    def __init__(
        self,
        model: Phi3VisionForCausalLM,
        cache: KVCache,
        attention: AttentionBackend,
        *,
        feature_cache_bytes: int,
        max_num_seqs: int,
        kernels: Kernels = EAGER,
        copies: HostCopies | None = None,
    ) -> None:
        """copies: how values come to the host; None for the device's own way."""
        self._model = model
        self._cache = cache
        self._attention = attention
        self._kernels = kernels
        embeddings = model.model.embed_tokens
        self.device = embeddings.weight.device
        self.vocab_size = embeddings.num_embeddings
        self._pictures = PictureEncoder(model, self.device, feature_cache_bytes)
        self.features = self._pictures.features
        self._host_copies = copies or host_copies(self.device)
        # What the newest step has sampled: the next one may need it before the host knows it.
        self._token_ids = torch.zeros(max_num_seqs, dtype=torch.int64, device=self.device)
        self._row_of: dict[Sequence, int] = {}
        self._static: StaticDecode | None = None

    @property
    def block_size(self) -> int:
        return self._cache.block_size

    @property
    def num_blocks(self) -> int:
        return self._cache.num_blocks

    @property
    def num_pictures_encoded(self) -> int:
        return self._pictures.num_pictures_encoded

    @torch.inference_mode()
    def capture(self, make_graph: MakeGraph, max_model_len: int) -> None:
        """From now on run steps of decodes alone as graphs, captured here. The backend must be one
        that can_capture."""
        self._static = StaticDecode(
            self._decode,
            make_graph,
            max_rows=len(self._token_ids),
            max_model_len=max_model_len,
            cache=self._cache,
            vocab_size=self.vocab_size,
            token_ids=self._token_ids,
        )

    @torch.inference_mode()
    def launch(self, rows: Items[ScheduledRow]) -> "LaunchedRows":
        self._pictures.encode([job for row in rows for job in row.encoder_jobs])
        with_tokens = [row for row in rows if row.num_tokens]
        if self._static is not None and self._static.fits(with_tokens):
            logits = self._static.launch(with_tokens, self._row_of)
            return LaunchedRows(self, rows, logits, self._static.choose)
        return LaunchedRows(self, rows, self._forward(with_tokens) if with_tokens else None)

    def _forward(self, rows: Items[ScheduledRow]) -> Tensor | None:
        """Logits of the rows that emit, (rows, vocab); None where none does."""
        batch = to_flat_batch(rows, self._cache.block_size, self.device)
        if batch.pending:
            where, whose = zip(*batch.pending, strict=True)
            index = torch.tensor([where, [self._row_of[sequence] for sequence in whose]])
            at, row = to_device(index, self.device)
            batch.input_ids.index_copy_(0, at, self._token_ids[row])
        embeddings = self._model.embed(batch.input_ids)
        self._place_features(embeddings, rows)
        hidden = self._run(embeddings, batch)
        return self._model.logits(hidden) if batch.emitting else None

    def _decode(self, batch: FlatBatch) -> Tensor:
        """As _forward, of rows that are all decodes; in tensor operations alone."""
        return self._model.logits(self._run(self._model.embed(batch.input_ids), batch))

    def _run(self, embeddings: Tensor, batch: FlatBatch) -> Tensor:
        hidden: Tensor = self._model(
            embeddings, batch, self._cache, self._attention, self._kernels, last_only=True
        )
        return hidden

    @torch.inference_mode()
    def select(self, emitting: list[Sequence], logits: Tensor, choose: Choose | None) -> HostCopy:
        """Sample a token for each, keep them for the next step, and send them to the host."""
        selection = select(logits, emitting, choose)
        self._token_ids[: len(emitting)] = selection.ids
        self._row_of = {sequence: row for row, sequence in enumerate(emitting)}
        return self._host_copies.start(selection.told)

    def release_memory(self) -> None:
        """After a failed step, an out-of-memory error say: give back what can be given back. That
        pictures may be half encoded, and anyhow, is forgotten with the rest of them."""
        self._pictures.forget_all()
        if self.device.type == "cuda":
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


class LaunchedRows:
    """A LaunchedStep. logits: (rows that emit, vocab), or None where none does; overwritten by
    `sample`, and in a captured step by the next one."""

    def __init__(
        self,
        runner: ModelRunner,
        rows: Items[ScheduledRow],
        logits: Tensor | None,
        choose: Choose | None = None,
    ) -> None:
        self._runner, self._rows, self._choose = runner, rows, choose
        self.logits = logits

    def sample(self) -> "SampledRows":
        if self.logits is None:
            return SampledRows(self._rows, None, [])
        emitting = [row.sequence for row in self._rows if row.emits]
        told = self._runner.select(emitting, self.logits, self._choose)
        return SampledRows(self._rows, told, emitting)


class SampledRows:
    """A SampledStep. told: of the rows that emit, whose sequences are emitting."""

    def __init__(
        self, rows: Items[ScheduledRow], told: HostCopy | None, emitting: list[Sequence]
    ) -> None:
        self._rows, self._told, self._emitting = rows, told, emitting

    def collect(self) -> list[SampledToken | None]:
        told = [] if self._told is None else to_sampled(self._told.wait(), self._emitting)
        tokens = iter(told)
        return [next(tokens) if row.emits else None for row in self._rows]
