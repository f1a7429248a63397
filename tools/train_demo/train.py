"""The training run: seeded, resumable, on a CPU.

The model computes in bfloat16, which many CPUs multiply several times as fast as float32; the
optimizer keeps the weights in float32.
"""

import logging
import random
import time
from collections import Counter
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from model_config import from_checkpoint
from scoring.models.phi3_vision import Phi3VisionForCausalLM

from . import dense
from .canvas import Style
from .checkpoint_files import write_description, write_weights
from .drawings import EVALUATION, TRAINING
from .rows import Row, RowBuilder

logger = logging.getLogger("train_demo")

SEED = 20261125
_ROWS, _SEGMENTS = 32, 8
_PEAK_RATE, _WARM_UP, _DECAY_SHARE = 1.5e-3, 400, 0.3
_WEIGHT_DECAY, _MAX_GRADIENT = 0.05, 1.0
_SAVE_EVERY, _MARK_EVERY, _LOG_EVERY = 100, 500, 20
_MARKED_BATCHES = 12


def train(directory: Path, steps: int, num_processes: int) -> None:
    """Train to the step of that number, from where the state in the directory stands, and write
    the checkpoint beside it. Every process takes a share of each step's rows, on one thread: no
    core ever waits for another within a layer, which matters where cores are shared."""
    if not (directory / "state.pt").exists():
        write_description(directory / "demo")
    store = directory / "processes"
    store.unlink(missing_ok=True)
    spawn(_run, (directory, steps, num_processes, store), num_processes)  # type: ignore[no-untyped-call]


def _run(rank: int, directory: Path, steps: int, num_processes: int, store: Path) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=num_processes
    )
    checkpoint = directory / "demo"
    config = from_checkpoint(checkpoint)
    model = Phi3VisionForCausalLM(config)
    dense.new_model(model, SEED)
    masters = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = _optimizer(model, masters)
    first = _resume(directory / "state.pt", masters, optimizer)
    model.bfloat16()
    dense.compile_layers(model)
    _copy(masters, model)
    builder = RowBuilder(checkpoint, config)
    started, losses = time.monotonic(), []
    for step in range(first, steps):
        for group in optimizer.param_groups:
            group["lr"] = _rate(step, steps)
        rng = random.Random(f"{SEED} {step} {rank}")
        batch = dense.to_batch(rows_of(builder, rng, TRAINING, _ROWS // num_processes))
        losses.append(_update(model, masters, optimizer, batch))
        done = step + 1
        if rank > 0:
            continue
        if done % _LOG_EVERY == 0:
            seconds, started = time.monotonic() - started, time.monotonic()
            loss = sum(losses) / len(losses)
            losses.clear()
            logger.info("step %d loss %.4f %.2f s/step", done, loss, seconds / _LOG_EVERY)
        if done % _SAVE_EVERY == 0 or done == steps:
            _save(directory / "state.pt", done, masters, optimizer)
        if done % _MARK_EVERY == 0 or done == steps:
            logger.info("step %d marks: %s", done, mark(model, checkpoint))
    if rank == 0:
        write_weights(model, checkpoint)
    dist.destroy_process_group()


def rows_of(builder: RowBuilder, rng: random.Random, style: Style, count: int) -> list[Row]:
    """One of them without a picture."""
    rows = [builder.picture_row(rng, style, _SEGMENTS) for _ in range(count - 1)]
    return [*rows, builder.talk_row(rng, style)]


def mark(model: Phi3VisionForCausalLM, checkpoint: Path, *, batches: int = _MARKED_BATCHES) -> str:
    """Share of answers on unseen drawings whose every token is the most likely one."""
    builder = RowBuilder(checkpoint, from_checkpoint(checkpoint))
    rng = random.Random("marks")
    right: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    for _ in range(batches):
        rows = rows_of(builder, rng, EVALUATION, _ROWS // 2)
        batch = dense.to_batch(rows)
        with torch.inference_mode():
            hits = (dense.answer_logits(model, batch).argmax(-1) == batch.targets).tolist()
        for row in rows:
            wrong = set()
            for segment, is_answer in zip(row.segments, row.is_answer, strict=True):
                if is_answer and not hits.pop(0):
                    wrong.add(segment)
            asked.update(row.categories)
            right.update(c for number, c in enumerate(row.categories) if number not in wrong)
    return ", ".join(f"{name} {100 * right[name] / asked[name]:.0f} %" for name in sorted(asked))


def _optimizer(model: Phi3VisionForCausalLM, masters: list[Tensor]) -> torch.optim.AdamW:
    """No weight decay for what is no matrix, nor for embeddings."""
    names = [name for name, _ in model.named_parameters()]
    decayed = [m for n, m in zip(names, masters, strict=True) if m.dim() >= 2 and "embed" not in n]
    kept = [m for n, m in zip(names, masters, strict=True) if m.dim() < 2 or "embed" in n]
    groups = [
        {"params": decayed, "weight_decay": _WEIGHT_DECAY},
        {"params": kept, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=_PEAK_RATE, betas=(0.9, 0.98), fused=True)


def _rate(step: int, steps: int) -> float:
    """Up, level, and down to nothing over the last share of the steps."""
    left = (steps - step) / (_DECAY_SHARE * steps)
    return _PEAK_RATE * min(1.0, (step + 1) / _WARM_UP, left)


def _update(
    model: Phi3VisionForCausalLM,
    masters: list[Tensor],
    optimizer: torch.optim.AdamW,
    batch: dense.Batch,
) -> float:
    loss = F.cross_entropy(dense.answer_logits(model, batch), batch.targets)
    loss.backward()  # type: ignore[no-untyped-call]
    # The tower's last layer, which the model does not use, gets no gradient.
    pairs = zip(model.parameters(), masters, strict=True)
    gradients = [(p.grad.float(), master) for p, master in pairs if p.grad is not None]
    total = torch.cat([gradient.flatten() for gradient, _ in gradients])
    dist.all_reduce(total)
    total /= dist.get_world_size()
    pieces = torch.split(total, [master.numel() for _, master in gradients])
    for (_, master), piece in zip(gradients, pieces, strict=True):
        master.grad = piece.view_as(master)
    model.zero_grad()
    torch.nn.utils.clip_grad_norm_(masters, _MAX_GRADIENT)
    optimizer.step()
    _copy(masters, model)
    return loss.item()


def _copy(masters: list[Tensor], model: Phi3VisionForCausalLM) -> None:
    with torch.no_grad():
        for parameter, master in zip(model.parameters(), masters, strict=True):
            parameter.copy_(master)


def _save(file: Path, step: int, masters: list[Tensor], optimizer: torch.optim.AdamW) -> None:
    state = {"step": step, "masters": masters, "optimizer": optimizer.state_dict()}
    torch.save(state, file.with_suffix(".part"))
    file.with_suffix(".part").rename(file)


def _resume(file: Path, masters: list[Tensor], optimizer: torch.optim.AdamW) -> int:
    if not file.exists():
        return 0
    state = torch.load(file)
    for master, saved in zip(masters, state["masters"], strict=True):
        master.copy_(saved)
    optimizer.load_state_dict(state["optimizer"])
    logger.info("going on at step %d", state["step"])
    return int(state["step"])
