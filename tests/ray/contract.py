"""`pytest --cluster ray tests/http tests/clients`: the tests of the contract, of streams and of the
clients, as they are, against clusters.

Those that share a server with others run: it is a cluster here. Left out are those that start a
server of their own, most of them about that process (how it starts and drains, its engine's
failures, its connections, TLS), and those whose model is a parrot in this process. Of the former,
traces, quotas and metrics have tests of clusters in this folder.
"""

import pytest

SHARED = {"demo", "tiny", "small", "keyed"}
"""The fixtures that are clusters."""

_HEADS = "Ray's proxy reads what is sent"
_LOG = "Ray forwards the log, later, each line with its replica's name"
APART = {
    "test_what_is_not_http_is_hung_up_on": _HEADS,
    "test_two_hosts_or_none_are_no_request": _HEADS,
    "test_a_head_without_an_end_is_a_431_as_soon_as_it_is_too_long": _HEADS,
    "test_a_body_that_breaks_off_into_nonsense_is_hung_up_on": _HEADS,
    "test_request_ids_are_echoed_and_must_not_hurt": "Ray's proxy echoes any, too",
    "test_a_hundred_headers_are_taken_and_one_more_is_a_431": "Ray's proxy adds one",
    "test_each_request_is_one_line_in_the_log_and_probes_are_none": _LOG,
    "test_every_line_is_a_json_object": _LOG,
    "test_a_request_is_one_line_with_ids_counts_and_stages": _LOG,
    "test_wrong_keys_do_not_flood_the_log": _LOG,
    "test_the_start_prints_where_the_memory_goes": _LOG,
    "test_afterwards_no_thread_and_no_file_is_left": "it counts one process's",
}
"""Tests of one process, though they share it: by name, and why."""


def is_of_the_contract(item: pytest.Item) -> bool:
    """Whether it asks for a shared server, or is given the name of one, and for no parrot."""
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    names = {*getattr(item, "fixturenames", ()), *map(str, parameters)}
    shares = bool(names & SHARED) and "parrot" not in names
    return shares and getattr(item, "originalname", item.name) not in APART
