"""What happens to parameters beyond the API's table: the `extra-parameters` header decides.

On OpenAI's routes nothing is checked: its clients send many that only its own service needs.
"""

from collections.abc import Mapping

from .errors import NotSupportedError, UnknownParameterError
from .parameters import EXTRA_PARAMETERS
from .schemas import ChatCompletionsRequest

_MAX_SHOWN_NAME = 64
_MODES = ("error", "drop", "pass-through")
# The official name first; the others are what Microsoft's JavaScript sample and the first Python
# SDK send.
_HEADERS = ("extra-parameters", "extra-params", "unknown-parameters")
# Of OpenAI's: without them the answer would be another than the caller expects.
_UNSUPPORTED = ("functions", "function_call", "audio", "best_of", "web_search_options")


def refuse_unsupported(request: ChatCompletionsRequest) -> None:
    """Raise NotSupportedError for what OpenAI's routes must not ignore."""
    given = request.model_extra or {}
    for name in _UNSUPPORTED:
        if given.get(name) is not None:
            raise NotSupportedError(f"{name} is not supported", ("body", name), given[name])
    if given.get("modalities") not in (None, ["text"]):
        raise NotSupportedError(
            "modalities must be ['text']", ("body", "modalities"), given["modalities"]
        )


def apply_extra_parameters(
    request: ChatCompletionsRequest, headers: Mapping[str, str]
) -> ChatCompletionsRequest:
    """The request with its extra parameters refused, dropped or let through.

    Raises UnknownParameterError under `error`, the default, and for a header that says something
    else; NotSupportedError under `pass-through` for a parameter that nothing here understands.
    """
    mode = extras_mode(headers)
    unknown = list(request.model_extra or {})
    known = [name for name in EXTRA_PARAMETERS if getattr(request, name) is not None]
    if mode == "drop":
        return request.model_copy(update=dict.fromkeys([*unknown, *known]))
    if mode == "error" and unknown + known:
        name = (unknown + known)[0][:_MAX_SHOWN_NAME]
        raise UnknownParameterError(
            f"{name} is not a parameter of this API; send the header 'extra-parameters: "
            "pass-through' to give it to the model, or 'drop' to have it ignored",
            ("body", name),
        )
    if unknown:
        name = unknown[0][:_MAX_SHOWN_NAME]
        raise NotSupportedError(
            f"{name} is not supported; beyond the API this model takes "
            f"{', '.join(EXTRA_PARAMETERS)}",
            ("body", name),
        )
    return request


def extras_mode(headers: Mapping[str, str]) -> str:
    """What the header says. Raises UnknownParameterError where it says something else."""
    for header in _HEADERS:
        if header in headers:
            mode = headers[header].strip().lower().replace("_", "-")
            if mode not in _MODES:
                shown = mode[:_MAX_SHOWN_NAME]
                raise UnknownParameterError(
                    f"{header} is {shown!r}; it must be one of {', '.join(_MODES)}",
                    ("header", header),
                    headers[header],
                )
            return mode
    return "error"
