"""What 8 bits gain and what they cost: speed beside bfloat16, in turns, and how far the
log-probabilities of first tokens are off."""

from dataclasses import replace
from statistics import mean

from .checkpoints import CheckpointPair
from .isolated import Isolated
from .report import Measurement, Report, spread
from .systems import Ours, OursInt8, build_ours, run_to_end, to_sequence
from .workload import CONCURRENT, SINGLE

_SECTION = "int8"
_WARM_UP_SEED, _ERROR_SEED, _TOP = 1000, 3000, 20


def measure_quantization(report: Report, pair: CheckpointPair, rounds: int, threads: int) -> None:
    systems = [
        Isolated(name, pair.model, pair.twin, threads) for name in (Ours.name, OursInt8.name)
    ]
    print()
    try:
        for workload in (CONCURRENT, SINGLE):
            speeds: list[list[float]] = [[], []]
            for number in range(rounds + 1):
                requests = workload.requests(number if number else _WARM_UP_SEED)
                for system, found in zip(systems, speeds, strict=True):
                    timed = system.generate(requests)
                    if number:  # the first round warms up
                        found.append(workload.num_output / timed.wall_s)
            ratios = [ours / plain for plain, ours in zip(*speeds, strict=True)]
            print(
                f"{workload.name}: int8 {spread(speeds[1])} tokens/s, "
                f"bfloat16 {spread(speeds[0])}, {spread(ratios, 2)} ×",
                flush=True,
            )
            report.add(Measurement(_SECTION, f"{workload.name}, int8", speeds[1], "tokens/s"))
            report.add(Measurement(_SECTION, f"{workload.name}, over bfloat16", ratios, "×"))
    finally:
        for system in systems:
            system.close()
    _measure_error(report, pair)


def _measure_error(report: Report, pair: CheckpointPair) -> None:
    """Against float32, bfloat16's own error beside it: the weights are random, so that logits lie
    close together, and how often the first token changes says little."""
    exact = _first_logprobs(pair, "float32")
    for name in ("bfloat16", "int8"):
        errors, same = [], 0
        for theirs, ours in zip(exact, _first_logprobs(pair, name), strict=True):
            errors += [abs(theirs[token] - ours[token]) for token in theirs.keys() & ours.keys()]
            same += max(theirs, key=theirs.__getitem__) == max(ours, key=ours.__getitem__)
        print(
            f"{name}: log-probabilities off by {mean(errors):.4f} on average, {max(errors):.3f} at "
            f"most ({len(errors)} of the {_TOP} likeliest of {len(exact)} prompts); the likeliest "
            f"is the same {same} times"
        )
        report.add(Measurement(_SECTION, f"log-probabilities off, {name}", errors, ""))


def _first_logprobs(pair: CheckpointPair, name: str) -> list[dict[int, float]]:
    """Of each prompt, the likeliest first tokens."""
    if name == "int8":
        engine = build_ours(pair.model, "bfloat16", "int8")
    else:
        engine = build_ours(pair.model, "float32" if name == "float32" else "bfloat16")
    sequences = [to_sequence(r.prompt, 1) for r in CONCURRENT.requests(_ERROR_SEED)]
    for sequence in sequences:
        sequence.params = replace(sequence.params, logprobs=_TOP)
    found = run_to_end(engine, sequences)
    logprobs = [found[sequence.id][0].logprobs for sequence in sequences]
    return [dict(each.top) for each in logprobs if each is not None]
