"""`python -m server` is `phi3v`."""

from .cli import app

app()
