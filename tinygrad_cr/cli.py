"""The command line: `tinygrad-cr train`, `predict`, `gradcheck` and `warmup`."""

from __future__ import annotations

import csv
import json
import sys
import time
from collections.abc import Iterable
from io import StringIO
from pathlib import Path
from typing import IO, Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from tinygrad_cr.data import Label, Split, load, split
from tinygrad_cr.data.standardize import MODES
from tinygrad_cr.errors import CacheError, DataError, OptionError, RunError, RunTakenError, TinygradError, unknown_name
from tinygrad_cr.nn import MLP
from tinygrad_cr.nn.init import INITS
from tinygrad_cr.op_table import check_all
from tinygrad_cr.operands import DROPOUT_MODES
from tinygrad_cr.optim import OPTIMIZERS
from tinygrad_cr.random import Generator
from tinygrad_cr.tensor import FLOATS
from tinygrad_cr.threads import get_num_threads
from tinygrad_cr.train import History, Trainer, evaluate, load_run, predict_proba
from tinygrad_cr.train import warmup as compile_all
from tinygrad_cr.train.progress import default_reporter
from tinygrad_cr.train.run import next_run_path, write_atomically

app = typer.Typer(
    help="Train, use and check small neural networks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _one_of(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}"


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


@app.command()
def train(
    data: Annotated[
        str, typer.Option(help="digits, mnist, fashion-mnist, cifar10, or a .npz or .csv file.")
    ] = "digits",
    label: Annotated[
        str | None, typer.Option(help="Label column of a .csv file: its name, or its position from 0.")
    ] = None,
    hidden: Annotated[str, typer.Option(help="Widths of the hidden layers, e.g. 100 or 256,128; '' for none.")] = "200",
    dropout: Annotated[float, typer.Option(help="Probability of dropping a hidden unit, in [0, 1).")] = 0.3,
    dropout_mode: Annotated[str, typer.Option(help=f"Where to rescale: {_one_of(DROPOUT_MODES)}.")] = "inverted",
    epochs: Annotated[int, typer.Option(help="How often each training row is seen.")] = 40,
    batch_size: Annotated[int, typer.Option(help="Rows in a minibatch.")] = 32,
    lr: Annotated[float, typer.Option(help="Learning rate at the start.")] = 0.01,
    momentum: Annotated[float, typer.Option(help="Momentum of SGD, in [0, 1).")] = 0.9,
    lr_decay: Annotated[float, typer.Option(help="Factor on the learning rate after each epoch.")] = 0.97,
    reg: Annotated[float, typer.Option(help="Strength of the penalty 0.5 * reg * sum(W**2).")] = 0.0,
    optimizer: Annotated[str, typer.Option(help=f"Update rule: {_one_of(OPTIMIZERS)}.")] = "sgd",
    init: Annotated[str, typer.Option(help=f"{', '.join(INITS)}, or a standard deviation such as 1e-4.")] = "he",
    standardize: Annotated[
        str, typer.Option(help=f"How features are shifted and scaled: {_one_of(MODES)}.")
    ] = "per-feature",
    seed: Annotated[int, typer.Option(help="Same seed, same run.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Run folder, new or empty (default: runs/DATA-1, -2, ...).")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object; progress goes to standard error.")
    ] = False,
) -> None:
    """Train a network, print its test accuracy, and write a run folder."""
    dataset = load(data, label=Label.AUTO if label is None else _column(label))
    parts = split(dataset, seed=seed)
    if parts.test is None:
        raise DataError(f"{data} has too few rows for a test part")
    model = MLP(
        [dataset.features, *_widths(hidden), dataset.classes],
        dropout=dropout,
        dropout_mode=dropout_mode,
        init=_number_or_name(init),
        generator=seed,
    )
    trainer = Trainer(
        model,
        optimizer=optimizer,
        lr=lr,
        momentum=momentum,
        lr_decay=lr_decay,
        reg=reg,
        epochs=epochs,
        batch_size=batch_size,
        standardize=standardize,
        generator=Generator(seed, stream=1),
        config={"data": data},
        reporter=default_reporter(sys.stderr if as_json else sys.stdout),
    )
    try:
        history = _fit_in_new_folder(trainer, parts, out, Path(data).stem)
    except KeyboardInterrupt:
        print(f"interrupted; the best network so far, if an epoch was finished, is in {trainer.out}", file=sys.stderr)
        raise typer.Exit(130) from None
    loss, accuracy = evaluate(model, parts.test, trainer.standardizer)
    if as_json:
        best = history.best()
        print(
            json.dumps(
                {
                    "run": str(trainer.out),
                    "test_accuracy": accuracy,
                    "test_loss": loss,
                    "best_epoch": best["epoch"],
                    "best_val_accuracy": best["val_accuracy"],
                    "seconds": history[-1]["seconds"],
                }
            )
        )
    else:
        print(f"test accuracy {accuracy:.4f}, saved in {trainer.out}")


@app.command()
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
    rows = load(data, label=None if label is None else _column(label))
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


@app.command()
def gradcheck(
    seed: Annotated[int, typer.Option(help="Of the numbers that the operations are tried on.")] = 0,
) -> None:
    """Check the gradient of every operation against finite differences; exit code 1 if one is wrong."""
    table = Table("operation", "case", "derivatives", "largest error", "verdict")
    failures = []
    for operation, case, report in check_all(seed):
        verdict = "[green]ok[/green]" if report.ok else "[red]WRONG[/red]"
        table.add_row(operation, case, str(report.compared), f"{report.error:.1e}", verdict)
        if not report.ok:
            failures.append(str(report))
    console = Console() if sys.stdout.isatty() else Console(width=100)
    console.print(table)
    if failures:
        console.print("\n".join(failures), markup=False)
        raise typer.Exit(1)
    console.print(f"{table.row_count} cases, all gradients agree with finite differences")


@app.command()
def warmup(
    dtype: Annotated[str, typer.Option(help="Of the networks to come: float32, float64 or both.")] = "float32",
) -> None:
    """Compile every kernel now and keep the result, so that later processes start fast."""
    dtypes = [str(known) for known in FLOATS]
    if dtype not in [*dtypes, "both"]:
        raise unknown_name("dtype", dtype, [*dtypes, "both"])
    folders: set[str] = set()
    for each in dtypes if dtype == "both" else [dtype]:
        begin = time.perf_counter()
        done = compile_all([each])
        seconds = time.perf_counter() - begin
        what = f"{done.compiled} kernels compiled" if done.compiled else "nothing to compile"
        print(f"{each}: {what}, {done.loaded} loaded, {seconds:.1f} s")
        if done.kept < done.compiled + done.loaded:
            raise CacheError(
                "the compiled kernels could not all be kept: no cache folder can be written, or its disk is full; "
                "set TINYGRAD_CR_CACHE to a folder that can"
            )
        folders.update(done.folders)
    print(f"kept in {', '.join(sorted(folders))}")


def _fit_in_new_folder(trainer: Trainer, parts: Split, out: Path | None, name: str) -> History:
    """Train in the folder asked for, or in the first free one; another run may take that at the same moment."""
    while True:
        trainer.out = out or next_run_path(Path("runs"), name)
        try:
            return trainer.fit(parts.train, parts.validation)
        except RunTakenError:
            if out is not None:
                raise


def _write_predictions(file: IO[str], probabilities: np.ndarray[Any, Any], names: list[str]) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["class", *(f"p_{name}" for name in names)])
    for row in probabilities:
        writer.writerow([names[int(row.argmax())], *(f"{p:.6g}" for p in row)])


def _widths(text: str) -> list[int]:
    try:
        return [int(width) for width in text.split(",")] if text.strip() else []
    except ValueError:
        raise OptionError(f"--hidden wants widths such as 100 or 256,128; got {text!r}") from None


def _column(text: str) -> str | int:
    return int(text) if text.lstrip("-").isdigit() else text


def _number_or_name(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text
