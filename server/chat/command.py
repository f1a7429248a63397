"""`phi3v chat` on the command line. What it needs besides is imported when it is called: `phi3v
--help` need not wait for it."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..client.options import DEFAULT_URL, CaFile, Key


def chat(
    prompt: Annotated[
        str | None, typer.Argument(help="Ask this alone, and print nothing but the answer.")
    ] = None,
    url: Annotated[str, typer.Option(help="The server's address.")] = DEFAULT_URL,
    key: Key = None,
    ca_file: CaFile = None,
    image: Annotated[
        str | None, typer.Option(help="A picture for the first question: a file, or a URL.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="The system message.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 takes the likeliest.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Sample from this share.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Tokens of an answer at most.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed draws the same.")] = None,
    json_schema: Annotated[
        Path | None, typer.Option(help="A file: answers are JSON by this schema.")
    ] = None,
) -> None:
    """Talk to a running server. In a pipe, or with a PROMPT, it prints one answer and ends: exit
    code 0 with an answer, 1 without."""
    from ..client.endpoint import to_endpoint
    from ..client.errors import ClientError, NoServerError
    from ..client.readiness import served_model, wait_until_ready
    from ..client.terminal_text import printable
    from ..standard_streams import open_standard_streams
    from .conversation import Conversation, to_picture
    from .one_answer import print_one_answer
    from .question import response_format
    from .session import Session

    open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal without UTF-8
    # Bytes that are no text stay, as they do in arguments: a file's name may have some.
    sys.stdin.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    parameters: dict[str, Any] = {
        "temperature": temperature,
        "top_p": top_p,
        "max_tokens": max_tokens,
        "seed": seed,
    }
    try:
        endpoint = to_endpoint(url, key, ca_file)
        if json_schema is not None:
            parameters["response_format"] = response_format(json_schema)
        conversation = Conversation(system, to_picture(image) if image else None)
        model = served_model(endpoint)
        if prompt is None and sys.stdin.isatty() and sys.stdout.isatty():
            Session(endpoint, model, conversation, parameters).run()
            return
        text = sys.stdin.read() if prompt is None else prompt
        wait_until_ready(endpoint, lambda _: None)
        print_one_answer(endpoint, model, conversation, parameters, text)
    except NoServerError as error:
        hint = "; start one with `make serve` or `phi3v serve`" if url == DEFAULT_URL else ""
        _fail(f"{error}{hint}")
    except ClientError as error:
        _fail(printable(str(error)))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _fail(sentence: str) -> None:
    sys.stderr.write(f"phi3v: {sentence}\n")
    raise typer.Exit(1)
