"""`python -m tools.train_demo train | evaluate`."""

from pathlib import Path
from typing import Annotated

import typer

from scoring.demo_model import DEMO

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command()
def train(
    directory: Annotated[Path, typer.Argument(help="For the run's state; it goes on from it.")],
    steps: Annotated[int, typer.Option(help="Of 32 rows each.")] = 7400,
    processes: Annotated[int, typer.Option(help="Of one thread each.")] = 2,
) -> None:
    """Train the demo model; its checkpoint is written to DIRECTORY/demo."""
    from .train import train as run

    run(directory, steps, processes)


@app.command()
def evaluate(
    checkpoint: Annotated[Path, typer.Argument()] = DEMO,
    drawings: Annotated[int, typer.Option(min=1)] = 1000,
    show_wrong: Annotated[int, typer.Option(help="So many wrong answers, too.")] = 0,
) -> None:
    """Print the marks of a checkpoint, by category. The exit code is 1 where a goal is missed."""
    from .evaluate import evaluate as run
    from .evaluate import goals_missed, report

    marks, wrong = run(checkpoint, drawings)
    typer.echo(report(marks))
    for line in wrong[:show_wrong]:
        typer.echo(line)
    if missed := goals_missed(marks):
        typer.echo(f"below its goal: {', '.join(missed)}", err=True)
        raise typer.Exit(1)


@app.command()
def samples(
    directory: Annotated[Path, typer.Argument()] = Path("server/playground"),
) -> None:
    """Draw the playground's sample pictures."""
    from .samples import write_samples

    write_samples(directory)


if __name__ == "__main__":
    app()
