"""`tinygrad-cr report`: one page on a run, on several side by side, on a search or on ensembles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tinygrad_cr.errors import OptionError
from tinygrad_cr.report import write_ensemble_report, write_report, write_search_report
from tinygrad_cr.report.ensembles import COMPARISON
from tinygrad_cr.search.ledger import SEARCH

SINGLY = {SEARCH: ("search", write_search_report), COMPARISON: ("comparison of ensembles", write_ensemble_report)}
"""By the file that shows what a folder is: what has a page of its own, and what writes it."""


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Run folders that train wrote, several are compared; or one that search or ensemble wrote."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="File to write (default: FOLDER/report.html; of several runs, report.html).")
    ] = None,
) -> None:
    """Write report.html on runs, on a search or on ensembles: verdicts, pictures, settings, how to make it again."""
    for run in runs:
        for file, (kind, write) in SINGLY.items():
            if not (run / file).exists():
                continue
            if len({each.resolve() for each in runs}) > 1:
                raise OptionError(
                    f"{run} holds a {kind}, which has a page of its own, but {len(runs)} folders were given: "
                    "give it alone, or several runs that train wrote"
                )
            print(write(run, out))
            return
    print(write_report(runs, out))
