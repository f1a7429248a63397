"""Phi-3-vision: CLIP tower, projection, separators and decoder.

Attribute names are the checkpoint's, so that weights load by name. Source of every formula: the
checkpoint's modeling_phi3_v.py, image_embedding_phi3_v.py and image_processing_phi3_v.py.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model_config import ModelConfig, TextConfig, VisionConfig

from ..batch import FlatBatch
from ..kv_cache import KVCache
from ..transfers import to_device
from .attention.interface import AttentionBackend
from .clip import Attention, ClipLayer, ClipVisionModel
from .kernels import EAGER, Kernels
from .phi3 import DecoderStep, LongRope, Phi3DecoderLayer, RMSNorm


def to_crops(pixels: Tensor, config: VisionConfig) -> Tensor:
    """An HD picture → the tower's input: the global view, then the crops row by row.

    pixels: uint8 (rows * crop, cols * crop, 3) → float32 (1 + rows * cols, 3, crop, crop).
    """
    crop = config.crop_size
    mean = to_device(torch.tensor(config.image_mean), pixels.device)[:, None, None]
    std = to_device(torch.tensor(config.image_std), pixels.device)[:, None, None]
    picture = (pixels.permute(2, 0, 1).contiguous().float().div(255) - mean) / std
    overview = F.interpolate(picture[None], size=(crop, crop), mode="bicubic")
    rows, cols = picture.shape[1] // crop, picture.shape[2] // crop
    crops = picture.view(3, rows, crop, cols, crop).permute(1, 3, 0, 2, 4)
    return torch.cat((overview, crops.reshape(rows * cols, 3, crop, crop)))


def merge_patches(patches: Tensor) -> Tensor:
    """Merge each 2×2 patches of a crop into one token.

    (crops, side * side, C) → (crops, side / 2, side / 2, 4C); of a token's channels the patch's
    row in the pair varies slowest, then its column, then C.
    """
    crops, num_patches, channels = patches.shape
    half = int(num_patches**0.5) // 2
    grid = patches.view(crops, half, 2, half, 2, channels)
    return grid.permute(0, 1, 3, 2, 4, 5).reshape(crops, half, half, 4 * channels)


class ClipTower(nn.Module):
    """CLIP's vision transformer, cut after its last layer but one."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.vision_model = ClipVisionModel(config)

    def attend_by(self, attention: Attention) -> None:
        """Have all layers attend by this, and no more by torch's own."""
        for layer in self.vision_model.encoder.layers:
            assert isinstance(layer, ClipLayer)
            layer.self_attn.attend = attention

    def forward(self, crops: Tensor) -> Tensor:
        """(N, 3, crop, crop) float32 → (N, 1 + patches, C), the class token first."""
        return self.run(self.embed(crops), 0, 1, 1)

    def embed(self, crops: Tensor) -> Tensor:
        """(N, 3, crop, crop) float32 → (N, 1 + patches, C), before the first layer."""
        model = self.vision_model
        hidden = model.embeddings(crops.to(model.embeddings.patch_embedding.weight.dtype))
        normed: Tensor = model.pre_layrnorm(hidden)
        return normed

    def run(self, hidden: Tensor, first: int, end: int, num_parts: int) -> Tensor:
        """Parts first … end of the layers, which are cut into num_parts alike. (N, 1 + patches, C)
        → as hidden."""
        layers = self.vision_model.encoder.layers[:-1]
        begin, stop = (len(layers) * part // num_parts for part in (first, end))
        for layer in layers[begin:stop]:
            hidden = layer(hidden)
        return hidden


class ImageEmbedding(nn.Module):
    """Pictures → embeddings in the decoder's space."""

    def __init__(self, vision: VisionConfig, text: TextConfig) -> None:
        super().__init__()
        merged = 4 * vision.hidden_size
        self.img_processor = ClipTower(vision)
        self.glb_GN = nn.Parameter(torch.empty(1, 1, merged))
        self.sub_GN = nn.Parameter(torch.empty(1, 1, 1, merged))
        self.img_projection = nn.Sequential(
            nn.Linear(merged, text.hidden_size),
            nn.GELU(),
            nn.Linear(text.hidden_size, text.hidden_size),
        )
        self._vision = vision

    def project(self, tokens: Tensor, height: int) -> Tensor:
        """One picture's merged tokens → its features.

        tokens: (1 + rows * cols, side, side, 4C), the global view first. height: of the HD
        picture, in pixels. → (num_tokens, hidden).
        """
        features: Tensor = self.img_projection(self._with_separators(tokens, height))
        return features

    def _with_separators(self, tokens: Tensor, height: int) -> Tensor:
        """Crops of one picture → its tokens in reading order: crops, glb_GN, global view.

        tokens: (1 + rows * cols, side, side, 4C) → (num_tokens, 4C). sub_GN closes every row.
        """
        rows, side, width = height // self._vision.crop_size, tokens.shape[1], tokens.shape[-1]
        cols = (len(tokens) - 1) // rows
        crops = tokens[1:].view(rows, cols, side, side, width).transpose(1, 2)
        crops = crops.reshape(rows * side, cols * side, width)

        def closed(grid: Tensor) -> Tensor:
            ends = self.sub_GN[0].expand(len(grid), 1, width)
            return torch.cat((grid, ends), dim=1).flatten(0, 1)

        return torch.cat((closed(crops), self.glb_GN[0], closed(tokens[0])))


class Phi3VisionModel(nn.Module):
    """Embeddings, decoder layers and final norm; `model.` in the checkpoint's names."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        text = config.text
        self.embed_tokens = nn.Embedding(text.vocab_size, text.hidden_size)
        self.vision_embed_tokens = ImageEmbedding(config.vision, text)
        self.layers = nn.ModuleList(Phi3DecoderLayer(text) for _ in range(text.num_layers))
        self.norm = RMSNorm(text.hidden_size, text.rms_norm_eps)


class Phi3VisionForCausalLM(nn.Module):
    """The whole model. rope holds no weights and is moved by `place_rope`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.model = Phi3VisionModel(config)
        self.lm_head = nn.Linear(config.text.hidden_size, config.text.vocab_size, bias=False)
        self.rope = LongRope(config.text)
        self._vision = config.vision

    def to_crops(self, pixels: Tensor) -> Tensor:
        """A uint8 HD picture → the tower's input; see the function of that name."""
        return to_crops(pixels, self._vision)

    @property
    def tower(self) -> ClipTower:
        return self.model.vision_embed_tokens.img_processor

    def merge(self, hidden: Tensor) -> Tensor:
        """The tower's output → merged tokens, (N, 1 + patches, C) → (N, side, side, 4C)."""
        return merge_patches(hidden[:, 1:])

    def project_image(self, tokens: Tensor, height: int) -> Tensor:
        """One picture's (crops, side, side, 4C) → (num_tokens, hidden)."""
        return self.model.vision_embed_tokens.project(tokens, height)

    def encode_images(self, pictures: list[Tensor]) -> list[Tensor]:
        """uint8 HD pictures → (num_tokens, hidden) each, in one batch of crops."""
        crops = [self.to_crops(picture) for picture in pictures]
        tokens = torch.split(self.merge(self.tower(torch.cat(crops))), [len(c) for c in crops])
        return [
            self.project_image(t, picture.shape[0])
            for t, picture in zip(tokens, pictures, strict=True)
        ]

    def embed(self, input_ids: Tensor) -> Tensor:
        """(T,) → (T, hidden)."""
        return self.model.embed_tokens(input_ids)  # type: ignore[no-any-return]

    def forward(
        self,
        embeddings: Tensor,
        batch: FlatBatch,
        cache: KVCache,
        attention: AttentionBackend,
        kernels: Kernels = EAGER,
        *,
        last_only: bool = False,
    ) -> Tensor:
        """Run the decoder; keys and values land in the cache. (T, hidden) → (T, hidden).

        last_only: → (rows that emit, hidden), and the last layer's MLP runs for these alone.
        """
        cos_sin = self.rope.cos_sin(batch.positions, batch.regimes, embeddings.dtype)
        step = DecoderStep(batch, cache, attention, cos_sin, kernels)
        hidden, residual = embeddings, None
        *layers, final = self.model.layers
        for index, layer in enumerate(layers):
            hidden, residual = layer(hidden, residual, step, index)
        is_narrowed = last_only and len(batch.last_tokens) < len(batch.input_ids)
        last = step.last_tokens() if is_narrowed else None
        hidden, residual = final(hidden, residual, step, len(layers), last)
        return step.norm(self.model.norm, hidden, residual)[0]

    def logits(self, hidden: Tensor) -> Tensor:
        """(rows, hidden) → float32 (rows, vocab)."""
        return self.lm_head(hidden).float()  # type: ignore[no-any-return]
