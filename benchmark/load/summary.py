"""One run's answers in figures. The definitions are the field's; each field says its own."""

from collections import Counter
from dataclasses import dataclass
from statistics import fmean, quantiles

from .answer import Answer

SLO_METRICS = ("ttft", "tpot", "e2e")
_MS = 1e3


@dataclass(frozen=True)
class Percentiles:
    """Of some quantity over a run, linearly interpolated; None where it was never seen."""

    p50: float | None
    p90: float | None
    p99: float | None
    mean: float | None
    max: float | None

    @classmethod
    def of(cls, values: list[float]) -> "Percentiles":
        if not values:
            return cls(None, None, None, None, None)
        cuts = quantiles(values, n=100, method="inclusive") if len(values) > 1 else values * 99
        return cls(cuts[49], cuts[89], cuts[98], fmean(values), max(values))


@dataclass(frozen=True)
class Slo:
    """Bounds that an answer must keep to count as good, in milliseconds; None for no bound."""

    ttft: float | None = None
    tpot: float | None = None
    e2e: float | None = None

    def is_met(self, answer: Answer) -> bool:
        """Only by a whole answer. One of a single token has no TPOT to judge. One of several that
        came in one piece keeps no bound of TPOT: nobody could read along, and a server that keeps
        its answers back until they are whole must not look like the fastest."""
        if answer.error is not None or (self.tpot is not None and answer.came_in_one_piece):
            return False
        measured = (answer.ttft_s, answer.tpot_s or 0.0, answer.e2e_s)
        bounds = (self.ttft, self.tpot, self.e2e)
        return all(
            bound is None or seconds * _MS <= bound
            for seconds, bound in zip(measured, bounds, strict=True)
        )


@dataclass(frozen=True)
class Summary:
    """Latencies and tokens are those of whole answers; a failed request adds to num_requests and
    errors alone.

    seconds: from the first request's start to the last answer's end; all rates are over it.
    ttft_ms: time to first token: from a request's start to its first content delta.
    itl_ms: inter-token latency: between two content deltas of one stream, all streams' pooled. A
        server that sends several tokens in one delta shows fewer and longer ones.
    tpot_ms: time per output token after the first, a mean for each request.
    e2e_ms: from a request's start to its response's end.
    goodput_per_s: requests per second that met every bound of the SLO; None without one.
    num_decoding: streams between their first and their last delta, on average over the run.
    prompt_tokens, cached_tokens, output_tokens: means per request, by the streams' usage.
        num_without_usage: answers whose tokens were counted otherwise; see Answer.
    late_ms: in an open loop, how long after its due time a request was sent.
    error_details: for every kind of error one example.
    """

    num_requests: int
    num_whole: int
    errors: dict[str, int]
    error_details: dict[str, str]
    seconds: float
    requests_per_s: float
    output_tokens_per_s: float
    goodput_per_s: float | None
    ttft_ms: Percentiles
    itl_ms: Percentiles
    tpot_ms: Percentiles
    e2e_ms: Percentiles
    late_ms: Percentiles
    prompt_tokens: float | None
    cached_tokens: float | None
    output_tokens: float | None
    num_without_usage: int
    num_decoding: float


def summarize(answers: list[Answer], slo: Slo | None = None) -> Summary:
    """answers: of one run, at least one."""
    whole = [answer for answer in answers if answer.error is None]
    seconds = max(a.end for a in answers) - min(a.start for a in answers)
    num_tokens = sum(answer.num_tokens for answer in whole)
    tpots = [answer.tpot_s for answer in whole if answer.tpot_s is not None]
    good = None if slo is None else sum(map(slo.is_met, answers)) / seconds
    return Summary(
        num_requests=len(answers),
        num_whole=len(whole),
        errors=dict(Counter(a.error for a in answers if a.error is not None).most_common()),
        error_details={a.error: a.detail for a in reversed(answers) if a.error is not None},
        seconds=seconds,
        requests_per_s=len(whole) / seconds,
        output_tokens_per_s=num_tokens / seconds,
        goodput_per_s=good,
        ttft_ms=_milliseconds([answer.ttft_s for answer in whole]),
        itl_ms=_milliseconds([gap for answer in whole for gap in answer.gaps_s]),
        tpot_ms=_milliseconds(tpots),
        e2e_ms=_milliseconds([answer.e2e_s for answer in whole]),
        late_ms=_milliseconds([answer.late_s for answer in answers]),
        prompt_tokens=_mean([a.num_prompt_tokens for a in whole if a.has_usage]),
        cached_tokens=_mean([a.num_cached_tokens for a in whole if a.has_usage]),
        output_tokens=_mean([a.num_tokens for a in whole]),
        num_without_usage=sum(not answer.has_usage for answer in whole),
        num_decoding=sum(a.times[-1] - a.times[0] for a in whole) / seconds,
    )


def _milliseconds(seconds: list[float]) -> Percentiles:
    return Percentiles.of([value * _MS for value in seconds])


def _mean(values: list[int]) -> float | None:
    return fmean(values) if values else None
