"""The command line: `tinygrad-cr train`, `search`, `ensemble`, `doctor`, `report`, `predict` and others."""

from __future__ import annotations

import sys

import typer

from tinygrad_cr.cli.doctor import doctor
from tinygrad_cr.cli.engine import gradcheck, warmup
from tinygrad_cr.cli.ensemble import ensemble
from tinygrad_cr.cli.predict import predict
from tinygrad_cr.cli.report import report
from tinygrad_cr.cli.search import search
from tinygrad_cr.cli.train import train
from tinygrad_cr.errors import TinygradError
from tinygrad_cr.threads import get_num_threads

app = typer.Typer(
    help="Train, check and use small neural networks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (train, search, ensemble, doctor, report, predict, gradcheck, warmup):
    app.command()(command)


def main() -> None:
    """Run the command line; an expected error is one line on standard error and exit code 1."""
    try:
        app()
    except BrokenPipeError:
        raise
    except (TinygradError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


@app.callback()
def _before_any_command() -> None:
    # A bad number of threads in the environment is told before anything begins.
    get_num_threads()
