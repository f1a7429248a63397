"""The served model's own modules, run on padded batches with gradients.

The engine's forward is paged and made for inference; this one computes the same numbers.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scoring.models.clip import ClipVisionModel
from scoring.models.kernels import rms_norm, swiglu
from scoring.models.phi3 import Phi3DecoderLayer, RMSNorm
from scoring.models.phi3_vision import Phi3VisionForCausalLM

from .rows import IMAGE, Row

# Where the decoder is taught what to look at: late enough to know what is asked, early enough to
# make something of what it sees.
_LOOKING_LAYER, _LOOKING_HEAD = 2, 0


@dataclass
class Batch:
    """Rows padded to one length, a multiple of 32.

    visible: (B, 1, T, T), 0 or −inf, added to the attention's scores. targets: (answer tokens,).
    answers: (B, T), true at the token before each target. pictures: uint8 (H, W, 3) of the rows
    that have one, in their order. names: of their crops, see naming.labels_of. looks: (N, 4), the
    row, the token that attends, a token of the picture and the thing that it shows; things are
    numbered through. shares: (things,), each one's of what its answer token is to attend to.
    """

    input_ids: Tensor
    positions: Tensor
    visible: Tensor
    answers: Tensor
    targets: Tensor
    pictures: list[Tensor]
    names: list[Tensor]
    looks: Tensor
    shares: Tensor


def to_batch(rows: list[Row]) -> Batch:
    longest = max(len(row.token_ids) for row in rows)
    length = math.ceil(longest / 32) * 32

    def padded(name: str, fill: int) -> Tensor:
        values = [getattr(row, name) for row in rows]
        return torch.tensor([v + [fill] * (length - len(v)) for v in values])

    input_ids, segments = padded("token_ids", 0), padded("segments", -2)
    is_answer = padded("is_answer", 0).bool()
    same = segments[:, :, None] == segments[:, None, :]
    seen = (same | (segments == -1)[:, None, :]) & torch.ones(length, length).tril().bool()
    visible = torch.zeros(seen.shape).masked_fill(~seen, -math.inf)[:, None]
    before = F.pad(is_answer[:, 1:], (0, 1))
    return Batch(
        input_ids,
        padded("positions", 0),
        visible.to(torch.bfloat16),
        before,
        input_ids[is_answer],
        [torch.tensor(row.pixels) for row in rows if row.pixels is not None],
        [row.names for row in rows if row.names is not None],
        *_looks_of(rows),
    )


def _looks_of(rows: list[Row]) -> tuple[Tensor, Tensor]:
    looks, shares = [], []
    for number, row in enumerate(rows):
        for at, things in row.looks:
            for tokens in things:
                looks += [(number, at - 1, token, len(shares)) for token in tokens]
                shares.append(1 / len(things))
    return torch.tensor(looks).view(-1, 4), torch.tensor(shares)


def new_model(model: Phi3VisionForCausalLM, seed: int) -> None:
    """Fill with what training begins from."""
    generator = torch.Generator().manual_seed(seed)
    depth = 2 * len(model.model.layers)
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):
            nn.init.zeros_(parameter)
        elif "norm" in name:
            nn.init.ones_(parameter)
        elif name == "model.embed_tokens.weight" or parameter.dim() != 2 or "position" in name:
            nn.init.normal_(parameter, std=0.3, generator=generator)
            if "patch_embedding" in name:
                nn.init.normal_(parameter, std=0.04, generator=generator)
        else:
            std = 1 / math.sqrt(parameter.shape[1])
            if name.endswith(
                ("o_proj.weight", "down_proj.weight", "out_proj.weight", "fc2.weight")
            ):
                std /= math.sqrt(depth)
            nn.init.normal_(parameter, std=std, generator=generator)
    _see_near_first(model.tower.vision_model, generator)


def _see_near_first(tower: ClipVisionModel, generator: torch.Generator) -> None:
    """Begin with patches that attend to their like and their neighbours: positions that are waves
    over the crop, and queries that look for their own keys ("Mimetic initialization of
    self-attention layers", Trockman and Kolter, 2023)."""
    positions = tower.embeddings.position_embedding.weight
    side, width = math.isqrt(len(positions) - 1), positions.shape[1]
    frequencies = 1.5 * 16.0 ** (-torch.arange(width // 4) / (width // 4 - 1))
    angles = torch.arange(side)[:, None] * frequencies
    waves = torch.cat((angles.sin(), angles.cos()), 1)
    y, x = waves.repeat_interleave(side, 0), waves.repeat(side, 1)
    mixed, _ = torch.linalg.qr(torch.randn(width, width, generator=generator))
    with torch.no_grad():
        positions[0] = 0
        positions[1:] = torch.cat((x, y), 1) @ mixed
        for layer in tower.encoder.layers:
            attention = layer.self_attn
            for head in torch.arange(width).chunk(attention.num_heads):
                query, key = _factors(0.7, 0.7, width, len(head), generator)
                attention.q_proj.weight[head], attention.k_proj.weight[head] = query.T, key
            out, value = _factors(0.4, -0.4, width, width, generator)
            attention.out_proj.weight.copy_(out)
            attention.v_proj.weight.copy_(value)


def _factors(
    noise: float, diagonal: float, width: int, rank: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """(width, rank) and (rank, width), whose product is about the diagonal and noise."""
    random = torch.randn(width, width, generator=generator) / math.sqrt(width)
    left, values, right = torch.linalg.svd(noise * random + diagonal * torch.eye(width))
    root = values[:rank].sqrt()
    return left[:, :rank] * root, root[:, None] * right[:rank]


def see(model: Phi3VisionForCausalLM, pictures: list[Tensor]) -> Tensor:
    """uint8 HD pictures → the merged tokens of all their crops, (crops, side, side, 4C)."""
    return model.merge(model.tower(torch.cat([model.to_crops(picture) for picture in pictures])))


def answer(model: Phi3VisionForCausalLM, batch: Batch, seen: Tensor) -> tuple[Tensor, Tensor]:
    """seen: the batch's pictures, see `see`. → float32 logits (number of answer tokens, vocab),
    and what the looking head attends to, (B, T, T)."""
    hidden = model.embed(batch.input_ids.clamp(min=0))
    crop = model.to_crops(batch.pictures[0]).shape[-1]
    crops = [1 + p.shape[0] * p.shape[1] // crop**2 for p in batch.pictures]
    features = [
        model.project_image(tokens, picture.shape[0])
        for tokens, picture in zip(torch.split(seen, crops), batch.pictures, strict=True)
    ]
    slots = (batch.input_ids == IMAGE)[..., None]
    hidden = hidden.masked_scatter(slots, torch.cat(features).to(hidden.dtype))
    flat = batch.positions.flatten()
    regimes = torch.zeros_like(flat)
    cos, sin = model.rope.cos_sin(flat, regimes, hidden.dtype)
    shape = (*batch.positions.shape, 1, cos.shape[-1])
    cos_sin = cos.view(shape), sin.view(shape)
    visible = batch.visible.to(hidden.dtype)
    attention = []
    for layer in model.model.layers:
        assert isinstance(layer, Phi3DecoderLayer)
        hidden, weights = _layer(layer, hidden, cos_sin, visible)
        attention.append(weights)
    logits = model.logits(_norm(model.model.norm, hidden[batch.answers]))
    return logits, attention[_LOOKING_LAYER][:, _LOOKING_HEAD]


def looking_loss(batch: Batch, attended: Tensor) -> Tensor:
    """The cross-entropy of attending to each answer token's things in equal shares, wherever they
    are shown. attended: (B, T, T)."""
    row, query, token, thing = batch.looks.unbind(1)
    mass = torch.zeros(len(batch.shares)).index_add(0, thing, attended[row, query, token].float())
    return -(batch.shares * (mass + 1e-6).log()).sum() / batch.shares.sum()


def _layer(
    layer: Phi3DecoderLayer, hidden: Tensor, cos_sin: tuple[Tensor, Tensor], visible: Tensor
) -> tuple[Tensor, Tensor]:
    """→ the output and the attention's weights, (B, heads, T, T)."""
    batch, length, width = hidden.shape
    head_dim = cos_sin[0].shape[-1]
    qkv = layer.self_attn.qkv_proj(_norm(layer.input_layernorm, hidden))
    query, key, value = qkv.view(batch, length, 3, width // head_dim, head_dim).unbind(2)
    query, key = (_rotated(x, *cos_sin) for x in (query, key))
    query, key, value = (x.transpose(1, 2) for x in (query / math.sqrt(head_dim), key, value))
    # Plain products: the fused kernel's backward pass takes several times as long on a CPU.
    weights = (query @ key.transpose(2, 3) + visible).softmax(-1)
    attended = weights @ value
    hidden = hidden + layer.self_attn.o_proj(attended.transpose(1, 2).flatten(2))
    gate_up = layer.mlp.gate_up_proj(_norm(layer.post_attention_layernorm, hidden))
    output: Tensor = hidden + layer.mlp.down_proj(swiglu(gate_up))
    return output, weights


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """As clip.attend_all, by plain products, as in _layer. Left in another order than its shape's,
    the result would make a compiled layer take 1.7 times as long."""
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
    weights = scores.softmax(-1, torch.float32).to(value.dtype)
    return (weights @ value).transpose(1, 2).contiguous()


def _norm(norm: RMSNorm, hidden: Tensor) -> Tensor:
    return rms_norm(hidden, norm.weight, norm.eps)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def compile_layers(model: Phi3VisionForCausalLM) -> None:
    """Fuse the small steps of every layer, which saves a third of the time."""
    global _layer
    _layer = torch.compile(_layer, dynamic=True)
    model.tower.attend_by(_attend)
    for layer in model.tower.vision_model.encoder.layers:
        layer.compile(dynamic=True)
