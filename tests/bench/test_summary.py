"""A run's figures, from answers whose times are known."""

import pytest

from benchmark.load.answer import Answer
from benchmark.load.summary import Percentiles, Slo, summarize


def answered(start: float, *times: float, num_tokens: int | None = None, **fields) -> Answer:
    """A whole answer whose deltas came so many seconds after its start, and ended with the last."""
    absolute = [start + time for time in times]
    tokens = num_tokens if num_tokens is not None else len(times)
    return Answer(start, absolute[-1], absolute, num_tokens=tokens, **fields)


def failed(start: float, end: float, kind: str, detail: str = "") -> Answer:
    return Answer(start, end, error=kind, detail=detail)


def test_percentiles_are_interpolated_as_everyone_does():
    found = Percentiles.of([float(value) for value in range(101)])

    assert (found.p50, found.p90, found.p99, found.mean, found.max) == (50, 90, 99, 50, 100)
    assert Percentiles.of([1.0, 2.0]).p90 == pytest.approx(1.9)


def test_one_value_is_all_its_percentiles_and_none_has_none():
    assert Percentiles.of([3.0]) == Percentiles(3, 3, 3, 3, 3)
    assert Percentiles.of([]) == Percentiles(None, None, None, None, None)


def test_latencies_are_milliseconds_of_their_definitions():
    found = summarize([answered(10.0, 0.5, 0.6, 0.9), answered(11.0, 1.0, 2.0)])

    assert found.ttft_ms.p50 == pytest.approx(750)
    assert found.itl_ms.p50 == pytest.approx(300)  # of 100, 300 and 1,000: all streams' gaps
    assert found.tpot_ms.p50 == pytest.approx((200 + 1000) / 2)
    assert found.e2e_ms.max == pytest.approx(2000)


def test_rates_are_over_the_time_from_the_first_start_to_the_last_end():
    found = summarize([answered(10.0, 0.5, 1.0), answered(12.0, 1.0, 2.0, num_tokens=10)])

    assert found.seconds == pytest.approx(4)
    assert found.requests_per_s == pytest.approx(2 / 4)
    assert found.output_tokens_per_s == pytest.approx(12 / 4)
    assert found.num_decoding == pytest.approx((0.5 + 1.0) / 4)


def test_tpot_divides_by_tokens_not_by_deltas():
    """Nine tokens in three deltas: eight after the first, in two seconds."""
    found = summarize([answered(0.0, 1.0, 2.0, 3.0, num_tokens=9)])

    assert found.tpot_ms.p50 == pytest.approx(250)


def test_failures_are_counted_by_kind_and_left_out_of_the_latencies():
    answers = [
        answered(0.0, 0.5, 1.0),
        failed(0.0, 4.0, "status 429", "busy"),
        failed(0.0, 2.0, "status 429", "still busy"),
        failed(0.0, 3.0, "timeout"),
    ]
    found = summarize(answers, Slo(ttft=1000))

    assert (found.num_requests, found.num_whole) == (4, 1)
    assert found.errors == {"status 429": 2, "timeout": 1}
    assert found.error_details == {"status 429": "busy", "timeout": ""}
    assert found.e2e_ms.max == pytest.approx(1000)
    assert found.output_tokens_per_s == pytest.approx(2 / 4)
    assert found.goodput_per_s == pytest.approx(1 / 4)


def test_where_everything_failed_there_are_no_latencies():
    found = summarize([failed(0.0, 2.0, "timeout")])

    assert (found.ttft_ms.p50, found.output_tokens, found.output_tokens_per_s) == (None, None, 0)


@pytest.mark.parametrize(
    ("slo", "good"),
    [
        (Slo(ttft=500), 2),
        (Slo(ttft=499), 0),
        (Slo(ttft=500, tpot=100), 1),
        (Slo(e2e=900), 1),
        (Slo(ttft=500, tpot=100, e2e=500), 0),
    ],
    ids=str,
)
def test_goodput_counts_requests_that_keep_every_bound(slo, good):
    answers = [
        answered(0.0, 0.5, 0.6),
        answered(0.0, 0.5, 1.0),
        failed(0.0, 1.0, "timeout"),
    ]

    assert summarize(answers, slo).goodput_per_s == pytest.approx(good)


def test_an_answer_in_one_piece_keeps_no_bound_of_tpot_and_one_of_one_token_any():
    in_one_piece = answered(0.0, 0.5, num_tokens=8)
    one_token = answered(0.0, 0.5)

    assert not Slo(tpot=100).is_met(in_one_piece)
    assert Slo(ttft=500, e2e=500).is_met(in_one_piece)
    assert Slo(tpot=100).is_met(one_token)


def test_tokens_without_usage_are_pointed_out():
    answers = [
        answered(0.0, 1.0, has_usage=True, num_prompt_tokens=20, num_cached_tokens=16),
        answered(0.0, 1.0),
    ]
    found = summarize(answers)

    assert (found.prompt_tokens, found.cached_tokens, found.num_without_usage) == (20, 16, 1)
