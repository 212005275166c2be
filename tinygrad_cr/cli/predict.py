"""`tinygrad-cr predict`: the class and the probabilities of every row."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from functools import partial
from io import StringIO
from pathlib import Path
from typing import IO, Annotated, Any

import numpy as np
import typer

from tinygrad_cr.cli import options
from tinygrad_cr.cli.ensemble import ENSEMBLE
from tinygrad_cr.data import Standardizer, load
from tinygrad_cr.device import find_backend
from tinygrad_cr.ensemble import Ensemble
from tinygrad_cr.errors import DataError, RunError
from tinygrad_cr.nn import MLP, Module
from tinygrad_cr.report.searches import read_search
from tinygrad_cr.search.ledger import SEARCH
from tinygrad_cr.train import load_run, predict_proba
from tinygrad_cr.train.evaluate import kernels_of
from tinygrad_cr.train.run import write_atomically

Array = np.ndarray[Any, Any]


def predict(
    model: Annotated[
        Path, typer.Option(help="Folder that train, search or ensemble wrote, or the file of an ensemble.")
    ],
    data: Annotated[str, typer.Option(help="A .csv or .npz file, or the name of a data set.")],
    label: Annotated[
        str | None,
        typer.Option(help="Column of a .csv file to leave out, by name or position, if it holds labels."),
    ] = None,
    device: options.Device = "cpu",
    out: Annotated[Path | None, typer.Option(help="CSV file to write (default: standard output).")] = None,
) -> None:
    """Write the class and the probability of each class for every row, as CSV.

    An ensemble and a population answer with the mean of their members' probabilities.
    """
    ask, names, wanted = _answering(model, device)
    rows = load(data, label=None if label is None else options.column(label))
    if wanted is not None and rows.features != wanted:
        raise DataError(
            f"{data} has {rows.features} columns, the network of {model} takes {wanted}; "
            "leave a column of labels out with --label"
        )
    probabilities = ask(rows.x)
    # An ensemble made in Python need not say what its classes are called.
    names = names or [str(i) for i in range(probabilities.shape[1])]
    if out is None:
        _write_predictions(sys.stdout, probabilities, names)
        return
    if out.exists():
        raise RunError(f"{out} exists already; nothing was written, choose a new name")
    table = StringIO()
    _write_predictions(table, probabilities, names)
    try:
        write_atomically(out, table.getvalue().encode())
    except OSError as error:
        raise RunError(f"cannot write {out}: {error.strerror}") from None


def _answering(path: Path, device: str) -> tuple[Callable[[Any], Array], list[str], int | None]:
    """What gives probabilities for rows, the names of its classes, and how many columns it takes."""
    if path.is_file() or (path / ENSEMBLE).exists():
        ensemble = Ensemble.load(path if path.is_file() else path / ENSEMBLE)
        for member in ensemble:
            _move(member.model, device)
        return ensemble.predict_proba, list(ensemble.class_names), ensemble[0].features
    if (path / SEARCH).exists():
        found = read_search(path)
        winner = found.result.winner
        if winner is None:
            raise RunError(f"{path} has no winner yet: let the search finish, the same command goes on with it")
        _move(winner.model, device)
        names = list(found.command.get("class_names") or [])
        return partial(_network, winner.model, winner.standardizer), names, winner.model.sizes[0]
    run = load_run(path)
    _move(run.model, device)
    if run.model.members is not None:
        population = Ensemble(run.model, standardizer=run.standardizer, class_names=run.class_names)
        return population.predict_proba, run.class_names, run.model.sizes[0]
    return partial(_network, run.model, run.standardizer), run.class_names, run.model.sizes[0]


def _move(model: Module, device: str) -> None:
    if find_backend(device) is not kernels_of(model):
        model.to(device)


def _network(model: MLP, standardizer: Standardizer, x: Any) -> Array:
    return predict_proba(model, x, standardizer)


def _write_predictions(file: IO[str], probabilities: np.ndarray[Any, Any], names: list[str]) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["class", *(f"p_{name}" for name in names)])
    for row in probabilities:
        writer.writerow([names[int(row.argmax())], *(f"{p:.6g}" for p in row)])
