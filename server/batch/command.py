"""`phi3v batch` on the command line. What it needs besides is imported when it is called: `phi3v
--help` need not wait for it."""

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..client.options import CaFile, Key


def batch(
    input_location: Annotated[
        str,
        typer.Argument(
            metavar="IN", help="A file of lines. On a cluster also a directory, a glob, a URL."
        ),
    ],
    output_location: Annotated[
        str,
        typer.Argument(metavar="OUT", help="A file of answers. On a cluster a directory or a URL."),
    ],
    url: Annotated[
        str | None,
        typer.Option(help="A running server. Unset: one is started for this batch, and stopped."),
    ] = None,
    key: Key = None,
    ca_file: CaFile = None,
    model: Annotated[
        str | None, typer.Option(help="Of the batch's own server: as serve's. Unset: as there.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Of the batch's own server: a TOML file of settings.")
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(
            min=1, max=1024, help="Lines in flight. Unset: what its own server runs at once, or 32."
        ),
    ] = None,
    timeout_s: Annotated[
        float, typer.Option(min=1, help="Seconds that one answer may take to come.")
    ] = 900,
    restart: Annotated[bool, typer.Option("--restart", help="Overwrite OUT.")] = False,
    cluster: Annotated[
        Literal["none", "ray"], typer.Option(help="ray: a server on each of many machines.")
    ] = "none",
    ray_address: Annotated[
        str | None, typer.Option(help="The cluster, as serve's. Unset: one on this machine.")
    ] = None,
    replicas: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Servers on the cluster, as serve's.")
    ] = None,
) -> None:
    """Answer OpenAI's batch lines. Run again, it goes on: what is answered in OUT is skipped, what
    failed is tried again. Other settings of its own server are variables: PHI3V_DTYPE say.
    Exit code 0: every line is answered; 1: some failed; 2: the batch could not run, or not go on.
    """
    from ..client.errors import ClientError
    from ..client.terminal_text import printable
    from ..settings import SettingsError
    from ..standard_streams import open_standard_streams
    from .whole_batch import run_at, run_by_itself, run_on_ray

    open_standard_streams()
    files = (Path(input_location), Path(output_location), restart)
    try:
        if cluster == "ray":
            if url is not None:
                raise ClientError("--url names a server; a cluster has its own")
            places = (input_location, output_location, restart)
            given = {"model": model, "ray_address": ray_address, "replicas": replicas}
            outcome = run_on_ray(*places, given, config, os.environ, concurrency, timeout_s)
        elif (ray_address, replicas) != (None, None):
            raise ClientError("--ray-address and --replicas are for --cluster ray")
        elif url is None:
            outcome = run_by_itself(*files, model, config, os.environ, concurrency, timeout_s)
        elif (model, config) != (None, None):
            raise ClientError("--model and --config are for a server of its own; --url names one")
        else:
            outcome = run_at(*files, url, key, ca_file, concurrency, timeout_s)
    except (ClientError, SettingsError) as error:
        sys.stderr.write(f"phi3v: {printable(str(error))}\n")
        raise typer.Exit(2) from None
    except KeyboardInterrupt:  # before the first line
        raise typer.Exit(130) from None
    typer.echo(f"{outcome.counts}: {output_location}")
    if outcome.signal is not None:
        sys.stderr.write(f"phi3v: {outcome.signal.name}: stopped; run it again to go on\n")
        raise typer.Exit(128 + outcome.signal)
    raise typer.Exit(1 if outcome.num_failed else 0)
