"""The options of every command that talks to a running server."""

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_URL = "http://127.0.0.1:5001"

Key = Annotated[
    str | None, typer.Option(envvar="PHI3V_API_KEY", help="The server's key.", show_default=False)
]
CaFile = Annotated[
    Path | None, typer.Option(help="Trust the certificates in this PEM file, for https.")
]
