"""How far a key-value cache in 8 bits moves the logits, on the golden cases.

`python -m tests.parity.float8_report`: the tiny checkpoint in bfloat16, with a cache of its own
dtype and with one in e4m3, everything else alike; after each case's last token, which is a decode.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from model_config import ModelConfig, from_checkpoint
from scoring.kv_cache import KVCache
from scoring.model_runner import ModelRunner
from scoring.models.attention.sdpa import SdpaBackend
from scoring.models.phi3_vision import Phi3VisionForCausalLM
from scoring.scheduler import ScheduledRow
from scoring.sequence import Sequence
from scoring.weights import load_model
from tests.parity.golden import IMAGE_CASES, TEXT_CASES, Golden

BLOCK_SIZE, CHUNK = 16, 512
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Difference:
    """Of the logits after a text: the largest and the mean one, the divergence of the distributions
    in nats, and whether the most likely token is the same."""

    case: str
    largest: float
    mean: float
    divergence: float
    is_same: bool


def differences(
    model: Phi3VisionForCausalLM, config: ModelConfig, golden: Golden
) -> Iterator[Difference]:
    for case in (*TEXT_CASES, *IMAGE_CASES):
        plain, narrow = (
            last_logits(model, config, golden.sequence(case), dtype)
            for dtype in (torch.bfloat16, torch.float8_e4m3fn)
        )
        off = (plain - narrow).abs()
        expected, found = plain.log_softmax(-1), narrow.log_softmax(-1)
        yield Difference(
            case,
            float(off.max()),
            float(off.mean()),
            float((expected.exp() * (expected - found)).sum()),
            int(plain.argmax()) == int(narrow.argmax()),
        )


def last_logits(
    model: Phi3VisionForCausalLM, config: ModelConfig, sequence: Sequence, dtype: torch.dtype
) -> Tensor:
    """Of a prompt in chunks, all but the first of which read what the cache holds. → (vocab,)"""
    num_tokens = len(sequence.token_ids)
    num_blocks = num_tokens // BLOCK_SIZE + 1
    cache = KVCache(config, num_blocks, BLOCK_SIZE, dtype, CPU)
    runner = ModelRunner(
        model, cache, SdpaBackend(BLOCK_SIZE), feature_cache_bytes=1 << 30, max_num_seqs=1
    )
    sequence.block_table = list(range(num_blocks))
    short = config.text.rope_scaling.original_max_position_embeddings
    sequence.long_rope = num_tokens > short
    starts = [*range(0, num_tokens - 1, CHUNK), num_tokens - 1]
    for start, end in zip(starts, [*starts[1:], num_tokens], strict=True):
        logits = runner.launch([ScheduledRow(sequence, start, end - start)]).logits
    return logits[0]


def main() -> None:
    shared = Path(__file__).resolve().parents[3] / "shared"
    if not (shared / "golden").is_dir():
        sys.exit(f"this compares with the published code's outputs, which are not here: {shared}")
    tiny = shared / "tiny-phi3v"
    config = from_checkpoint(tiny)
    model = load_model(tiny, config, CPU, torch.bfloat16, lambda done, total: None)
    print("logits with a cache in 8 bits, beside one in bfloat16")
    print(f"{'case':<22}{'largest':>9}{'mean':>9}{'divergence':>12}  most likely token")
    found = []
    for off in differences(model, config, Golden(shared / "golden", config.vision)):
        found.append(off)
        same = "the same" if off.is_same else "another"
        print(f"{off.case:<22}{off.largest:>9.3f}{off.mean:>9.4f}{off.divergence:>12.5f}  {same}")
    mean, divergence = (fmean(getattr(d, n) for d in found) for n in ("mean", "divergence"))
    print(f"{'mean':<22}{'':>9}{mean:>9.4f}{divergence:>12.5f}")


if __name__ == "__main__":
    main()
