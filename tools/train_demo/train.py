"""The training run: seeded, resumable, on a CPU.

The model computes in bfloat16, which many CPUs multiply several times as fast as float32; the
optimizer keeps the weights in float32.
"""

import logging
import os
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
from .naming import NamingHead
from .optimizer import Optimizer
from .rows import Row, RowBuilder

logger = logging.getLogger("train_demo")

SEED = 20261125
_ROWS, _SEGMENTS = 32, 8
NAMING_STEPS, _NAMING_SHARE, _LOOKING_SHARE = 2400, 0.3, 0.1
_PEAK_RATES, _WARM_UP = (5e-3, 8e-4), 100
# At the peak the answers unlearn words as fast as they learn them.
_ANSWERS_SHARE = 0.6
_MAX_GRADIENT = 1.0
_SAVE_EVERY, _MARK_EVERY, _LOG_EVERY = 100, 1000, 20
_MARKED_PICTURES = 128
# Memory of a step's large tensors stays in the process, in huge pages; glibc would give it back to
# the kernel each time, which takes a tenth to a fifth of the processor's time (measured in turns).
_MALLOC = ":".join(
    f"glibc.malloc.{name}"
    for name in ("hugetlb=1", "mmap_max=0", f"trim_threshold={8 << 30}", f"top_pad={256 << 20}")
)


def train(directory: Path, steps: int, num_processes: int) -> None:
    """Train to the step of that number, from where the state in the directory stands, and write
    the checkpoint beside it. Every process takes a share of each step's rows, on one thread: no
    core ever waits for another within a layer, which matters where cores are shared."""
    if not (directory / "state.pt").exists():
        write_description(directory / "demo")
    os.environ.setdefault("GLIBC_TUNABLES", _MALLOC)
    store = directory / "processes"
    store.unlink(missing_ok=True)
    spawn(_run, (directory, steps, num_processes, store), num_processes)  # type: ignore[no-untyped-call]


def _run(rank: int, directory: Path, steps: int, num_processes: int, store: Path) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=num_processes
    )
    trainer = Trainer(directory)
    started, losses = time.monotonic(), []
    for step in range(trainer.step, steps):
        rng = random.Random(f"{SEED} {step} {rank}")
        losses.append(trainer.update(rng, step, steps, _ROWS // num_processes))
        done = step + 1
        if rank > 0:
            continue
        if done % _LOG_EVERY == 0:
            seconds, started = time.monotonic() - started, time.monotonic()
            loss = sum(losses) / len(losses)
            losses.clear()
            logger.info("step %d loss %.4f %.2f s/step", done, loss, seconds / _LOG_EVERY)
        if done % _SAVE_EVERY == 0 or done == steps:
            trainer.save(done)
        if done % _MARK_EVERY == 0 or done == steps:
            logger.info("step %d marks: %s", done, trainer.marks(done))
    dist.destroy_process_group()


class Trainer:
    """The model in bfloat16, and what keeps its weights in float32.

    For the first steps the tower alone learns, from what it is to name; then all of it, from the
    answers, the names, and where to look for each answer.
    """

    def __init__(self, directory: Path) -> None:
        self._state, self._checkpoint = directory / "state.pt", directory / "demo"
        config = from_checkpoint(self._checkpoint)
        self._model = Phi3VisionForCausalLM(config)
        dense.new_model(self._model, SEED)
        torch.manual_seed(SEED)
        self._head = NamingHead(4 * config.vision.hidden_size)
        self._named = [*self._model.named_parameters(), *self._head.named_parameters()]
        self._masters = [parameter.detach().clone() for _, parameter in self._named]
        names = [name for name, _ in self._named]
        self._optimizer = Optimizer(list(zip(names, self._masters, strict=True)), _PEAK_RATES)
        self.step = self._resume()
        self._model.bfloat16()
        self._head.bfloat16()
        dense.compile_layers(self._model)
        self._copy()
        self._builder = RowBuilder(self._checkpoint, config)

    def update(self, rng: random.Random, step: int, steps: int, num_rows: int) -> float:
        """One step on so many rows of this process's own. Returns their loss."""
        if step < NAMING_STEPS:
            rows = [self._builder.seen_only(rng, TRAINING) for _ in range(2 * num_rows)]
            seen, names = self._see(rows)
            loss = self._head.loss(seen, names)
        else:
            batch = dense.to_batch(rows_of(self._builder, rng, TRAINING, num_rows))
            seen = dense.see(self._model, batch.pictures)
            logits, attended = dense.answer(self._model, batch, seen)
            loss = F.cross_entropy(logits, batch.targets)
            loss = loss + _NAMING_SHARE * self._head.loss(seen, torch.cat(batch.names))
            loss = loss + _LOOKING_SHARE * dense.looking_loss(batch, attended)
        loss.backward()  # type: ignore[no-untyped-call]
        self._descend(_share_of_rate(step, steps))
        return loss.item()

    def _see(self, rows: list[Row]) -> tuple[Tensor, Tensor]:
        pictures = [torch.tensor(row.pixels) for row in rows]
        names = torch.cat([row.names for row in rows if row.names is not None])
        return dense.see(self._model, pictures), names

    def _descend(self, share_of_rate: float) -> None:
        # The tower's last layer, which the model does not use, gets no gradient.
        pairs = zip(self._named, self._masters, strict=True)
        gradients = [(p.grad.float(), master) for (_, p), master in pairs if p.grad is not None]
        total = torch.cat([gradient.flatten() for gradient, _ in gradients])
        dist.all_reduce(total)
        total /= dist.get_world_size()
        pieces = torch.split(total, [master.numel() for _, master in gradients])
        for (_, master), piece in zip(gradients, pieces, strict=True):
            master.grad = piece.view_as(master)
        torch.nn.utils.clip_grad_norm_(self._masters, _MAX_GRADIENT)
        self._optimizer.step(share_of_rate)
        for _, parameter in self._named:
            parameter.grad = None
        self._copy()

    def _copy(self) -> None:
        with torch.no_grad():
            for (_, parameter), master in zip(self._named, self._masters, strict=True):
                parameter.copy_(master)

    @torch.inference_mode()
    def marks(self, step: int) -> str:
        """Of unseen drawings: the share of names that are right; by category, the share of answers
        whose every token is the most likely one. Writes the checkpoint, too."""
        rng = random.Random("marks")
        if step <= NAMING_STEPS:
            rows = [self._builder.seen_only(rng, EVALUATION) for _ in range(_MARKED_PICTURES)]
            return f"names {100 * self._head.share_right(*self._see(rows)):.0f} %"
        write_weights(self._model, self._checkpoint)
        right: Counter[str] = Counter()
        asked: Counter[str] = Counter()
        for _ in range(0, _MARKED_PICTURES, _ROWS):
            rows = rows_of(self._builder, rng, EVALUATION, _ROWS)
            batch = dense.to_batch(rows)
            seen = dense.see(self._model, batch.pictures)
            logits, _ = dense.answer(self._model, batch, seen)
            hits = iter((logits.argmax(-1) == batch.targets).tolist())
            for row in rows:
                answered = zip(row.segments, row.is_answer, strict=True)
                wrong = {number for number, is_answer in answered if is_answer and not next(hits)}
                asked.update(row.categories)
                right.update(c for number, c in enumerate(row.categories) if number not in wrong)
        return ", ".join(
            f"{name} {100 * right[name] / asked[name]:.0f} %" for name in sorted(asked)
        )

    def save(self, step: int) -> None:
        state = {"step": step, "masters": self._masters, "optimizer": self._optimizer.state_dict()}
        part = self._state.with_suffix(".part")
        torch.save(state, part)
        part.rename(self._state)

    def _resume(self) -> int:
        if not self._state.exists():
            return 0
        state = torch.load(self._state)
        for master, saved in zip(self._masters, state["masters"], strict=True):
            master.copy_(saved)
        self._optimizer.load_state_dict(state["optimizer"])
        logger.info("going on at step %d", state["step"])
        return int(state["step"])


def rows_of(builder: RowBuilder, rng: random.Random, style: Style, count: int) -> list[Row]:
    """One of them without a picture."""
    rows = [builder.picture_row(rng, style, _SEGMENTS) for _ in range(count - 1)]
    return [*rows, builder.talk_row(rng, style)]


def _share_of_rate(step: int, steps: int) -> float:
    """Up and level for the names; up and down to nothing for the answers."""
    if step < NAMING_STEPS:
        return min(1.0, (step + 1) / _WARM_UP)
    warm = min(1.0, (step + 1 - NAMING_STEPS) / _WARM_UP)
    return _ANSWERS_SHARE * warm * (steps - step) / (steps - NAMING_STEPS)
