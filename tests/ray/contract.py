"""`pytest --cluster ray tests/http tests/clients`: the tests of the contract, of streams and of the
clients, as they are, against clusters.

Those that share a server with others run: it is a cluster here. Left out are those that start a
server of their own, which are about that process (how it starts and drains, its engine's failures,
its connections, TLS), and those whose model is a parrot in this process.
"""

import pytest

SHARED = {"demo", "tiny", "small", "keyed"}
"""The fixtures that are clusters."""

APART = {
    "test_what_is_not_http_is_hung_up_on": "Ray's proxy reads the heads",
    "test_each_request_is_one_line_in_the_log_and_probes_are_none": "Ray forwards the log, later",
}
"""Tests of one process, though they share it: by name, and why."""


def is_of_the_contract(item: pytest.Item) -> bool:
    """Whether it asks for a shared server, or is given the name of one, and for no parrot."""
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    names = {*getattr(item, "fixturenames", ()), *map(str, parameters)}
    shares = bool(names & SHARED) and "parrot" not in names
    return shares and getattr(item, "originalname", item.name) not in APART
