"""A graph for machines without CUDA: it runs the work again at each replay, and holds it to what a
captured graph could do."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class Operand:
    """A tensor that goes into an operation. address: None for one that the work made itself, which
    on a GPU lies in the graph's own memory."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    address: int | None


class Recorder(TorchDispatchMode):
    """Every operation with what goes into it."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[str, list[Operand]]] = []
        self._made: list[Tensor] = []  # kept, so that no address is used twice

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operands = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        own = {tensor.untyped_storage().data_ptr() for tensor in self._made}
        self.operations.append((str(func), [_operand(x, own) for x in operands]))
        result = func(*args, **(kwargs or {}))
        given = {x.untyped_storage().data_ptr() for x in operands}
        for x in tree_leaves(result):
            if isinstance(x, Tensor) and x.untyped_storage().data_ptr() not in given:
                self._made.append(x)
        return result


def _operand(x: Tensor, own: set[int]) -> Operand:
    is_own = x.untyped_storage().data_ptr() in own
    return Operand(tuple(x.shape), x.stride(), x.dtype, None if is_own else x.data_ptr())


class StandInGraph:
    """At every replay the operations, their shapes, and the addresses of what the work did not make
    itself must be the captured ones: a real graph would compute with those, whatever is wanted."""

    num_replays = 0

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._captured = self._run()

    def replay(self) -> None:
        StandInGraph.num_replays += 1
        operations = self._run()
        for now, captured in zip(operations, self._captured, strict=False):
            assert now == captured, f"captured as {captured}, now {now}"
        assert len(operations) == len(self._captured)

    def _run(self) -> list[tuple[str, list[Operand]]]:
        recorder = Recorder()
        with recorder:
            self._work()
        return recorder.operations
