"""Prompts through torch's own varlen attention, which has no kernel for a CPU: it is lent one here,
which checks what the CUDA kernel checks and computes in float32."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from scoring.models.attention.sdpa import SdpaBackend
from scoring.models.attention.self_test import TOLERANCES, largest_error
from scoring.models.kernels import EAGER

pytest.importorskip("torch.nn.attention.varlen")

CPU = torch.device("cpu")
NARROW = [torch.bfloat16, torch.float16]
num_rows: list[int] = []  # of each call


def varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    is_causal: bool = False,
    scale: float | None = None,
    window_size: Sequence[int] = (-1, -1),
    enable_gqa: bool = False,
    seqused_k: Tensor | None = None,
    block_table: Tensor | None = None,
    num_splits: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """As mha_varlen_fwd of torch's flash_attn/flash_api.cpp. A mask ends with the last key."""
    assert query.dtype in NARROW, "only fp16 and bf16"
    assert query.shape[-1] % 8 == 0, "head_dim is a multiple of 8"
    assert seqused_k is None, "needs another implementation"
    assert block_table is None, "needs another implementation"
    for x in (query, key, value):
        assert x.dtype is query.dtype, "one dtype"
        assert x.stride(-1) == 1, "contiguous last dimension"
    for sums, tensor, longest in ((cu_seq_q, query, max_q), (cu_seq_k, key, max_k)):
        assert sums.dtype is torch.int32, "int32"
        assert sums.is_contiguous(), "contiguous sums"
        assert len(sums) == len(cu_seq_q) > 1, "one sum for each row"
        assert sums[0] == 0, "sums begin at 0"
        assert sums[-1] == len(tensor), "sums end with the tensor"
        assert sums.diff().max() <= longest, "a maximum"
    num_rows.append(len(cu_seq_q) - 1)
    outputs = []
    lengths = (sums.diff().tolist() for sums in (cu_seq_q, cu_seq_k, cu_seq_k))
    parts = (x.float().split(n) for x, n in zip((query, key, value), lengths, strict=True))
    for q, k, v in zip(*parts, strict=True):
        scores = torch.einsum("qhd,khd->hqk", q, k) * (scale or q.shape[-1] ** -0.5)
        if window_size[1] >= 0:
            later = torch.ones_like(scores).triu(1 + len(k) - len(q) + window_size[1])
            scores = scores.masked_fill(later.bool(), -torch.inf)
        outputs.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), v))
    nothing = query.new_empty(0, dtype=torch.float32)
    return torch.cat(outputs).to(query.dtype), nothing, nothing.to(torch.uint64)


torch.library.register_kernel("torch_attn::_varlen_attn", "cpu", varlen)


@pytest.mark.parametrize("dtype", NARROW)
def test_it_keeps_the_rules_and_is_right(config, dtype):
    num_rows.clear()

    error = largest_error(SdpaBackend(varlen=True), EAGER, config, dtype, CPU)

    assert 0 < error < TOLERANCES[dtype] / 2
    assert num_rows == [3]  # all prompts of the one step that has any


class Spoiled(SdpaBackend):
    """Calls with one thing changed."""

    def __init__(self, **changes) -> None:
        super().__init__(varlen=True)
        self._changes = changes

    def _prefill(self, query, cache, rows):
        changes = {name: change(getattr(rows, name)) for name, change in self._changes.items()}
        return super()._prefill(query, cache, replace(rows, **changes))


def with_gaps(sums: Tensor) -> Tensor:
    return torch.stack([sums, sums], dim=-1)[:, 0]


@pytest.mark.parametrize(
    ("said", "changes"),
    [
        ("int32", {"query_starts": Tensor.long}),
        ("int32", {"key_starts": Tensor.long}),
        ("contiguous sums", {"key_starts": with_gaps}),
        ("one sum for each row", {"key_starts": lambda sums: sums[:-1]}),
        ("sums begin at 0", {"query_starts": lambda sums: sums + 1}),
        ("sums end with the tensor", {"slots": lambda slots: slots[:-1]}),
        ("a maximum", {"max_query_len": lambda longest: longest - 1}),
        ("a maximum", {"max_key_len": lambda longest: longest - 1}),
    ],
)
def test_a_broken_rule_is_noticed(config, said, changes):
    with pytest.raises(AssertionError, match=said):
        largest_error(Spoiled(**changes), EAGER, config, torch.bfloat16, CPU)


def test_a_wide_dtype_is_noticed(config):
    with pytest.raises(AssertionError, match="only fp16 and bf16"):
        largest_error(SdpaBackend(varlen=True), EAGER, config, torch.float32, CPU)
