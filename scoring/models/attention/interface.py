"""What every backend does: plan once per step, then attend layer by layer."""

from typing import Any, Protocol

from torch import Tensor

from ...batch import FlatBatch
from ...kv_cache import LayerCache


class AttentionBackend(Protocol):
    """block_size: tokens of a cache block that this backend wants. can_capture: whether a batch of
    decodes alone can be part of a CUDA graph: then plan and attend read its lengths on the device
    only (batch.context_lens is None) and wait for nothing. Metadata is the backend's own affair."""

    name: str
    block_size: int
    can_capture: bool

    def plan(self, batch: FlatBatch) -> Any:
        """What `attend` needs of the batch, computed once for all layers."""

    def attend(self, query: Tensor, cache: LayerCache, metadata: Any) -> Tensor:
        """Causal attention of each token over its own sequence.

        query: (T, heads, head_dim). cache: this step's tokens already in it. → (T, heads,
        head_dim).
        """
