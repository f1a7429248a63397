"""CLIP's vision transformer, ViT, as the checkpoint names its parts.

Source: "Learning Transferable Visual Models From Natural Language Supervision" (Radford et al.,
2021). The same numbers as transformers' CLIPVisionModel, bit for bit on a CPU; to import that one
takes longer than all else that an engine imports, torch included.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model_config import VisionConfig

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Of every token over all: query, key, value (N, L, heads, head_dim) → the same."""


def attend_all(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """In one call of torch's: with no mask and heads of 64 in two bytes, that is its own flash
    kernel on CUDA, so that the package would add nothing."""
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2)


class ClipEmbeddings(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width, patch = config.hidden_size, config.patch_size
        num_patches = (config.crop_size // patch) ** 2
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.patch_embedding = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.position_embedding = nn.Embedding(1 + num_patches, width)

    def forward(self, crops: Tensor) -> Tensor:
        """(N, 3, crop, crop) → (N, 1 + patches, C), the class token first."""
        patches = self.patch_embedding(crops).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(crops), 1, -1)
        return torch.cat((first, patches), dim=1) + self.position_embedding.weight


class ClipAttention(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_heads
        self.attend: Attention = attend_all
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        by_head = (*hidden.shape[:-1], self.num_heads, -1)
        query, key, value = (
            project(hidden).view(by_head) for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        attended: Tensor = self.out_proj(self.attend(query, key, value).flatten(-2))
        return attended


class ClipMlp(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        inner = self.fc1(hidden)
        out: Tensor = self.fc2(inner * torch.sigmoid(1.702 * inner))  # "quick_gelu"
        return out


class ClipLayer(nn.Module):
    """(N, L, C) → the same."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.self_attn = ClipAttention(config)
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = ClipMlp(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.self_attn(self.layer_norm1(hidden))
        out: Tensor = hidden + self.mlp(self.layer_norm2(hidden))
        return out


class ClipEncoder(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ClipLayer(config) for _ in range(config.num_layers))


class ClipVisionModel(nn.Module):
    """All that a checkpoint has. Phi-3-vision needs neither the last layer nor post_layernorm."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.embeddings = ClipEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.encoder = ClipEncoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
