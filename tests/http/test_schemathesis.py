"""Whatever the OpenAPI document allows, and what it does not: no answer is a server error, and none
is other than the document says.

What the schemas forbid is refused, and what they allow is accepted, but for what they cannot say,
request by request (`_is_beyond_the_schemas`): what the extra-parameters header makes of keys beyond
the API's table; what a picture's data and a grammar's text must be; which token ids there are; what
goes together; how many tokens a text has. Numbers and booleans in strings are taken, too, but not
advertised; no case that is tried here has them.
"""

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    positive_data_acceptance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from server.app import create_app
from server.parameters import EXTRA_PARAMETERS, Parameters
from server.settings import Settings

from .parrot import ParrotServer
from .running_server import assert_well

# Each of these is judged by more than its own schema.
_JUDGED = {"response_format", "guided_regex", "guided_choice", "stop_token_ids", "logit_bias"}
_JUDGED |= {"min_tokens", "top_logprobs", "stream_options", "max_completion_tokens"}
# OpenAI's, on its own routes: known and refused.
_JUDGED |= {"functions", "function_call", "audio", "best_of", "web_search_options", "modalities"}


def _is_beyond_the_schemas(case: Any) -> bool:
    """Whether something in the request may rightly be refused that the schemas allow."""
    body = case.body
    if case.meta.generation.mode is not GenerationMode.POSITIVE or not isinstance(body, dict):
        return False
    task = body.get("input_data")
    parameters = (task.get("parameters") or {}) if isinstance(task, dict) else body
    messages = task["input_string"] if isinstance(task, dict) else body.get("messages", ())
    given = {name for name, value in parameters.items() if value is not None}
    unknown = parameters.keys() - Parameters.model_fields.keys() - _REST
    extras = given & set(EXTRA_PARAMETERS) | unknown
    is_openais = "v1" in case.path or "deployments" in case.path
    contents = [message.get("content") for message in messages]
    has_pictures = any(
        part["type"] != "text" for parts in contents if isinstance(parts, list) for part in parts
    )
    return bool(has_pictures or given & _JUDGED or (extras and task is None and not is_openais))


_REST = {"messages", "model", "stream", "tools", "tool_choice"}


def what_is_allowed_is_accepted(context: Any, response: Any, case: Any) -> bool | None:
    """schemathesis's own check, where the schemas can tell."""
    if _is_beyond_the_schemas(case):
        return None
    accepted: bool | None = positive_data_acceptance(context, response, case)
    return accepted


CHECKS = [
    schemathesis.checks.not_a_server_error,
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
    what_is_allowed_is_accepted,
]


DOCUMENT = schemathesis.openapi.from_dict(create_app(Settings(), None, None, None).openapi())  # type: ignore[arg-type]
OPERATIONS = [found.ok() for found in DOCUMENT.get_all_operations()]


# The same handlers answer under the other names: a few cases of those will do.
NUM_CASES = {"/chat/completions": 350, "/v1/chat/completions": 200, "/score": 200}
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
