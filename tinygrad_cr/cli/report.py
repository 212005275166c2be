"""`tinygrad-cr report`: one page on a run, or on several side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tinygrad_cr.report import write_report


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders that train wrote; several are compared.")],
    out: Annotated[
        Path | None, typer.Option(help="File to write (default: RUN/report.html; of several runs, report.html).")
    ] = None,
) -> None:
    """Write report.html: verdicts, pictures, configuration, and the command that makes the run again."""
    print(write_report(runs, out))
