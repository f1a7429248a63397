"""All checks, in the order of running them."""

from functools import partial

from .aborts import CHECK as ABORTS
from .aborts import check_aborts
from .decode import CHECK as DECODE
from .decode import check_decode
from .graphs import CHECK as GRAPHS
from .graphs import check_graphs
from .isolated import Task
from .lab import Lab
from .machine import CHECK as MACHINE
from .machine import check_machine
from .memory import CHECK as MEMORY
from .memory import check_memory
from .parity import CHECK as PARITY
from .parity import check_parity
from .prefill import CHECK as PREFILL
from .prefill import check_prefill
from .self_test import CHECK as SELF_TEST
from .self_test import check_pieces, check_self_test

# Of the self-test, as choose.py names them.
_ATTENTIONS = {"cpu": ("cpu", "compiled", "sdpa"), "cuda": ("flash_attn", "triton", "sdpa")}
NAMES = (SELF_TEST, PARITY, GRAPHS, ABORTS, DECODE, PREFILL, MEMORY)


def tasks(lab: Lab) -> list[Task]:
    backends = lab.backends()
    pieces = Task(SELF_TEST, "Triton kernels", partial(check_pieces, lab))
    return [
        Task(MACHINE, lab.device, partial(check_machine, lab)),
        *(
            Task(SELF_TEST, name, partial(check_self_test, lab, name))
            for name in _ATTENTIONS[lab.device]
        ),
        *([pieces] if lab.device == "cuda" else []),
        *(Task(PARITY, it.name, partial(check_parity, lab, it)) for it in backends),
        *(Task(GRAPHS, it.name, partial(check_graphs, lab, it)) for it in backends),
        Task(ABORTS, lab.model.name, partial(check_aborts, lab)),
        Task(DECODE, lab.model.name, partial(check_decode, lab)),
        Task(PREFILL, lab.model.name, partial(check_prefill, lab)),
        Task(MEMORY, lab.model.name, partial(check_memory, lab)),
    ]
