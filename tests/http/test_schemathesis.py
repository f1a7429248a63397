"""Whatever the OpenAPI document allows, and what it does not: no answer is a server error, and none
is other than the document says.

Not asked: that everything the schemas allow is accepted, and all else refused. They cannot say
what a picture's data is, what the extra-parameters header makes of a body, or that numbers in
strings are taken too.
"""

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from server.app import create_app
from server.settings import Settings

from .parrot import ParrotServer
from .running_server import assert_well

CHECKS = [
    schemathesis.checks.not_a_server_error,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
]


DOCUMENT = schemathesis.openapi.from_dict(create_app(Settings(), None, None, None).openapi())  # type: ignore[arg-type]
OPERATIONS = [found.ok() for found in DOCUMENT.get_all_operations()]


# The same handlers answer under the other names: a few cases of those will do.
NUM_CASES = {"/chat/completions": 150, "/v1/chat/completions": 150, "/score": 150}
FEW = 10
# Of a route that takes no body there is nothing to get wrong.
CASES = [
    pytest.param(operation, mode, id=f"{operation.label} {mode.value}")
    for operation in OPERATIONS
    for mode in GenerationMode
    if operation.method == "post" or mode is GenerationMode.POSITIVE
]


@pytest.mark.parametrize(("operation", "mode"), CASES)
def test_no_case_is_a_server_error_or_other_than_documented(
    parrot: ParrotServer, operation: Any, mode: GenerationMode
) -> None:
    """The parrot answers at once, so that many cases take little time."""

    @settings(
        max_examples=NUM_CASES.get(operation.path, FEW),
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        case.call_and_validate(base_url=parrot.base_url, checks=CHECKS, timeout=20)

    check()


def test_the_server_is_well_after_all_those_cases(parrot: ParrotServer) -> None:
    assert_well(parrot)
