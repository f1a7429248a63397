"""Phi-3's decoder over a flat batch of tokens and a paged cache.

Attribute names are the checkpoint's, so that weights load by name. No biases anywhere.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from model_config import TextConfig

from ..batch import FlatBatch
from ..kv_cache import KVCache
from .attention.interface import AttentionBackend
from .kernels import Kernels


class RMSNorm(nn.Module):
    """Holds the weight of a root-mean-square norm; kernels.py computes it."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps = eps


class LongRope:
    """Rotary positions whose frequencies depend on the length regime of the token's sequence.

    Source: `Phi3SuScaledRotaryEmbedding` in the checkpoint's modeling file; there one regime holds
    for the whole forward, here each token brings its own.
    """

    def __init__(self, config: TextConfig) -> None:
        scaling = config.rope_scaling
        divisors = torch.tensor([scaling.short_factor, scaling.long_factor])  # (2, head_dim / 2)
        exponents = torch.arange(0, config.head_dim, 2).float() / config.head_dim
        self._inverse_frequencies = 1.0 / (divisors * config.rope_theta**exponents)
        self._attention_factor = scaling.attention_factor

    def to(self, device: torch.device) -> None:
        self._inverse_frequencies = self._inverse_frequencies.to(device)

    def cos_sin(
        self, positions: Tensor, regimes: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """positions, regimes: (T,) → two of (T, 1, head_dim), the halves alike."""
        angles = positions[:, None].float() * self._inverse_frequencies[regimes]
        angles = torch.cat((angles, angles), dim=-1)[:, None]  # (T, 1, head_dim)
        factor = self._attention_factor
        return (angles.cos() * factor).to(dtype), (angles.sin() * factor).to(dtype)


class Phi3Attention(nn.Module):
    """Fused query, key and value projection; the cache lies outside."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.qkv_proj = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(
        self, hidden: Tensor, step: "DecoderStep", layer: int, last: "LastTokens | None"
    ) -> Tensor:
        cache = step.cache.layer(layer)
        query = step.kernels.rotate_and_write(
            self.qkv_proj(hidden), *step.cos_sin, cache, step.batch.slot_mapping
        )
        metadata = step.metadata
        if last is not None:
            query, metadata = query[last.indices], last.metadata
        attended = step.attention.attend(query, cache, metadata)
        output: Tensor = self.o_proj(attended.flatten(1))
        return output


class Phi3MLP(nn.Module):
    """SwiGLU with a fused gate and up projection, the gate first."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.gate_up_proj = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden: Tensor, step: "DecoderStep") -> Tensor:
        output: Tensor = self.down_proj(step.kernels.swiglu(self.gate_up_proj(hidden)))
        return output


class Phi3DecoderLayer(nn.Module):
    """Pre-norm attention and MLP, each added to its input."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.self_attn = Phi3Attention(config)
        self.mlp = Phi3MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        hidden: Tensor,
        residual: Tensor | None,
        step: "DecoderStep",
        layer: int,
        last: "LastTokens | None" = None,
    ) -> tuple[Tensor, Tensor]:
        """hidden: what the layer before added last; residual: the sum up to there, None at the
        first layer. Returns the same pair, so that each sum is made where it is normed. last: go on
        with these tokens alone; all tokens' keys and values are written."""
        hidden, residual = step.norm(self.input_layernorm, hidden, residual)
        hidden = self.self_attn(hidden, step, layer, last)
        if last is not None:
            residual = residual[last.indices]
        hidden, residual = step.norm(self.post_attention_layernorm, hidden, residual)
        return self.mlp(hidden, step), residual


@dataclass(frozen=True)
class LastTokens:
    """Of the rows that emit: the newest tokens' indices, and the attention's plan for these."""

    indices: Tensor
    metadata: Any


class DecoderStep:
    """What all layers of one step share: the batch, the cache, the rotation, the attention plan."""

    def __init__(
        self,
        batch: FlatBatch,
        cache: KVCache,
        attention: AttentionBackend,
        cos_sin: tuple[Tensor, Tensor],
        kernels: Kernels,
    ) -> None:
        self.batch = batch
        self.cache = cache
        self.attention = attention
        self.cos_sin = cos_sin
        self.kernels = kernels
        self.metadata: Any = attention.plan(batch)

    def last_tokens(self) -> LastTokens:
        return LastTokens(self.batch.last_tokens, self.attention.plan(self.batch.of_last_tokens()))

    def norm(self, norm: RMSNorm, hidden: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """Add, then norm. → the normed sum and the sum."""
        if residual is None:
            return self.kernels.rms_norm(hidden, norm.weight, norm.eps), hidden
        return self.kernels.add_rms_norm(hidden, residual, norm.weight, norm.eps)
