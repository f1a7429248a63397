"""What a request says its answer must be → a grammar, compiled before anything else is done."""

from scoring.errors import GrammarError
from scoring.grammar import Grammar, choice_grammar, json_grammar, regex_grammar
from scoring.grammar_checker import GrammarChecker

from .errors import APIError, InvalidRequestError, NotSupportedError
from .json_schema import check_schema
from .schemas import ChatCompletionsRequest

_ANY_OBJECT = {"type": "object"}
_MAX_REGEX_BYTES, _MAX_CHOICES_BYTES = 4096, 1 << 16
_Loc = tuple[str, ...]


async def to_grammar(request: ChatCompletionsRequest, checker: GrammarChecker) -> Grammar | None:
    """The grammar of the answer, known to compile; None where any text will do.

    Raises InvalidRequestError, NotSupportedError and scoring's EngineOverloadedError.
    """
    asked = {
        "response_format": request.response_format and request.response_format.type != "text",
        "guided_regex": request.guided_regex is not None,
        "guided_choice": request.guided_choice is not None,
    }
    names = [name for name, given in asked.items() if given]
    if not names:
        return None
    if len(names) > 1:
        raise InvalidRequestError(f"{names[1]}: not together with {names[0]}", ("body", names[1]))
    if request.stop:
        raise InvalidRequestError(
            f"stop: not together with {names[0]}, which it could cut short; the answer ends where "
            "it is complete",
            ("body", "stop"),
        )
    grammar, loc, refusal = _grammar(request)
    try:
        await checker.check(grammar)
    except GrammarError as error:
        raise refusal(f"{loc[-1]}: no grammar can be made of it: {error}", loc) from error
    return grammar


def _grammar(request: ChatCompletionsRequest) -> tuple[Grammar, _Loc, type[APIError]]:
    """The grammar, what it is made of, and how to refuse it."""
    if request.guided_regex is not None:
        loc: _Loc = ("body", "guided_regex")
        _check_size(request.guided_regex, _MAX_REGEX_BYTES, loc)
        return regex_grammar(request.guided_regex), loc, InvalidRequestError
    if request.guided_choice is not None:
        loc = ("body", "guided_choice")
        _check_size("".join(request.guided_choice), _MAX_CHOICES_BYTES, loc)
        return choice_grammar(request.guided_choice), loc, InvalidRequestError
    wanted = request.response_format.json_schema if request.response_format else None
    if wanted is None:
        return json_grammar(_ANY_OBJECT), ("body", "response_format"), NotSupportedError
    loc = ("body", "response_format", "json_schema", "schema")
    check_schema(wanted.schema_, loc)
    return json_grammar(wanted.schema_), loc, NotSupportedError


def _check_size(text: str, max_bytes: int, loc: _Loc) -> None:
    num_bytes = len(text.encode())
    if num_bytes > max_bytes:
        raise InvalidRequestError(f"{loc[-1]} has {num_bytes} bytes; {max_bytes} are allowed", loc)
