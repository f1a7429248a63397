"""Step times that no machine has, for simulations in tests."""

from benchmark.cluster.replica import SimulatedReplica
from benchmark.cluster.step_times import StepTimes
from scoring.sequence import Sequence

# About a small model on a small GPU.
TIMES = StepTimes(
    of_tokens=((1, 0.010), (32, 0.012), (256, 0.030), (2048, 0.220)),
    per_context=4e-8,
    per_pair=1e-9,
    per_crop=0.004,
    prompt_share=128,
    crops_share=1.0,
    source={},
)


def run_until_idle(
    replica: SimulatedReplica, arrivals: list[tuple[float, Sequence, list[int]]]
) -> dict[str, list[float]]:
    """arrivals: (when, what, the answer), in the order of their times → when each token came."""
    queue = list(arrivals)
    times: dict[str, list[float]] = {}
    while queue or replica.due is not None:
        due = replica.due
        if due is None or (queue and queue[0][0] < due):
            when, sequence, answer = queue.pop(0)
            replica.submit(sequence, answer, when)
        else:
            for output in replica.advance():
                times.setdefault(output.sequence_id, []).append(due)
    return times
