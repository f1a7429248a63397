"""The CLIP tower is transformers' one, and what it asks of torch on a GPU, seen on tensors without
values."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CLIPVisionConfig, CLIPVisionModel

from scoring.models.phi3_vision import ClipTower

from ..fake_cuda import fake_tensors

NUM_CROPS = 17


class AttentionCalls(TorchDispatchMode):
    """The arguments of each call, and the largest tensor that anything made."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.scaled_dot_product_attention.default:
            self.found.append((args, kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.largest = max(self.largest, result.numel())
        return result


def move(tower: nn.Module, dtype: torch.dtype) -> None:
    """Give it fake weights on the GPU."""
    for module in tower.modules():
        for name, weight in module.named_parameters(recurse=False):
            fake = torch.empty(weight.shape, dtype=dtype, device="cuda")
            setattr(module, name, nn.Parameter(fake, requires_grad=False))
        for name, buffer in module.named_buffers(recurse=False):
            fake = torch.empty(buffer.shape, dtype=buffer.dtype, device="cuda")
            module.register_buffer(name, fake, persistent=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_the_tower_computes_what_transformers_does(config, dtype):
    vision = config.vision
    reference = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=vision.hidden_size,
            intermediate_size=vision.intermediate_size,
            num_hidden_layers=vision.num_layers,
            num_attention_heads=vision.num_heads,
            image_size=vision.crop_size,
            patch_size=vision.patch_size,
            layer_norm_eps=vision.layer_norm_eps,
            hidden_act="quick_gelu",
        )
    )
    tower = ClipTower(vision)
    generator = torch.Generator().manual_seed(1)
    for weight in tower.parameters():
        nn.init.normal_(weight, std=0.2, generator=generator)
    reference.load_state_dict(tower.vision_model.state_dict())
    crops = torch.randn(3, 3, vision.crop_size, vision.crop_size, generator=generator)
    with torch.inference_mode():
        found = tower.to(dtype)(crops)
        states = reference.to(dtype)(crops.to(dtype), output_hidden_states=True).hidden_states

    assert torch.equal(found, states[-2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_all_crops_attend_in_one_call_that_a_flash_kernel_can_take(config, dtype):
    """That is: no mask, not causal, no dropout, a dtype of two bytes. Which kernel torch takes
    then, only a card can show."""
    vision = config.vision
    num_tokens = 1 + (vision.crop_size // vision.patch_size) ** 2
    tower = ClipTower(vision).eval()
    with fake_tensors(), torch.inference_mode():
        move(tower, dtype)
        crops = torch.empty(NUM_CROPS, 3, vision.crop_size, vision.crop_size, device="cuda")
        with AttentionCalls() as calls:
            hidden = tower(crops)

    assert hidden.device.type == "cuda"
    assert len(calls.found) == vision.num_layers - 1
    for args, options in calls.found:
        shape = (NUM_CROPS, vision.num_heads, num_tokens, vision.hidden_size // vision.num_heads)
        assert [(x.shape, x.dtype, x.stride(-1)) for x in args] == [(shape, dtype, 1)] * 3
        assert options.keys() <= {"scale"}
    # Nowhere is a weight for each pair of tokens.
    assert calls.largest < NUM_CROPS * vision.num_heads * num_tokens**2
