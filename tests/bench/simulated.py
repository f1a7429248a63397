"""Step times that no machine has, for simulations in tests."""

from benchmark.cluster.replica import Request, SimulatedReplica
from benchmark.cluster.step_times import StepTimes

# About a small model on a small GPU.
TIMES = StepTimes(
    of_tokens=((1, 0.010), (32, 0.012), (256, 0.030), (2048, 0.220)),
    per_context=4e-8,
    per_pair=1e-9,
    per_crop=0.004,
    prompt_share=128,
    crop_parts_share=6,
    source={},
)


class Watch:
    """Notes when what happened. One for each request."""

    def __init__(self) -> None:
        self.first: float | None = None
        self.end: float | None = None

    def on_first(self, now: float) -> None:
        self.first = now

    def on_end(self, now: float) -> None:
        self.end = now


def request_of(sequence, answer: list[int]) -> tuple[Request, Watch]:
    watch = Watch()
    return Request(sequence, answer, watch.on_first, watch.on_end), watch


def run_until_idle(replica: SimulatedReplica, arrivals: list[tuple[float, Request]]) -> None:
    """arrivals: in the order of their times."""
    queue = list(arrivals)
    while queue or replica.due is not None:
        due = replica.due
        if queue and (due is None or queue[0][0] < due):
            when, request = queue.pop(0)
            replica.submit(request, when)
        else:
            replica.advance()
