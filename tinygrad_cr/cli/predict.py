"""`tinygrad-cr predict`: the class and the probabilities of every row."""

from __future__ import annotations

import csv
import sys
from io import StringIO
from pathlib import Path
from typing import IO, Annotated, Any

import numpy as np
import typer

from tinygrad_cr.cli import options
from tinygrad_cr.data import load
from tinygrad_cr.errors import DataError, RunError
from tinygrad_cr.train import load_run, predict_proba
from tinygrad_cr.train.run import write_atomically


def predict(
    model: Annotated[Path, typer.Option(help="Run folder that train wrote.")],
    data: Annotated[str, typer.Option(help="A .csv or .npz file, or the name of a data set.")],
    label: Annotated[
        str | None,
        typer.Option(help="Column of a .csv file to leave out, by name or position, if it holds labels."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="CSV file to write (default: standard output).")] = None,
) -> None:
    """Write the class and the probability of each class for every row, as CSV."""
    run = load_run(model)
    rows = load(data, label=None if label is None else options.column(label))
    wanted = run.model.sizes[0]
    if rows.features != wanted:
        raise DataError(
            f"{data} has {rows.features} columns, the network of {model} takes {wanted}; "
            "leave a column of labels out with --label"
        )
    probabilities = predict_proba(run.model, rows.x, run.standardizer)
    if out is None:
        _write_predictions(sys.stdout, probabilities, run.class_names)
        return
    if out.exists():
        raise RunError(f"{out} exists already; nothing was written, choose a new name")
    table = StringIO()
    _write_predictions(table, probabilities, run.class_names)
    try:
        write_atomically(out, table.getvalue().encode())
    except OSError as error:
        raise RunError(f"cannot write {out}: {error.strerror}") from None


def _write_predictions(file: IO[str], probabilities: np.ndarray[Any, Any], names: list[str]) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["class", *(f"p_{name}" for name in names)])
    for row in probabilities:
        writer.writerow([names[int(row.argmax())], *(f"{p:.6g}" for p in row)])
