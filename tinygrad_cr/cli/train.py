"""`tinygrad-cr train`: a network, its test accuracy, and a run folder; or the rest of a run that was cut short."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from tinygrad_cr.cli import options
from tinygrad_cr.data import Split
from tinygrad_cr.doctor import preflight as check_first
from tinygrad_cr.errors import DivergenceError, OptionError, RunTakenError
from tinygrad_cr.random import Generator
from tinygrad_cr.report import write_report
from tinygrad_cr.train import History, Trainer, evaluate, load_parts, read_run
from tinygrad_cr.train.progress import default_reporter
from tinygrad_cr.train.run import PREFLIGHT, next_run_path, write_atomically

WITH_RESUME = {"resume", "epochs", "device", "as_json", "report"}
"""What may be said together with --resume; everything else stands in the run folder."""


def train(
    context: typer.Context,
    data: options.Data = "digits",
    label: options.LabelColumn = None,
    hidden: options.Hidden = "200",
    dropout: options.Dropout = 0.3,
    dropout_mode: options.DropoutMode = "inverted",
    epochs: options.Epochs = 40,
    batch_size: options.BatchSize = 32,
    lr: options.LearningRate = 0.01,
    momentum: options.Momentum = 0.9,
    lr_decay: options.LearningRateDecay = 0.97,
    reg: options.Regularization = 0.0,
    optimizer: options.OptimizerName = "sgd",
    init: options.Init = "he",
    standardize: options.Standardize = "per-feature",
    clip_norm: Annotated[
        float | None, typer.Option(help="Longest gradient that an update follows (default: any).")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many validations without a better accuracy (default: never).")
    ] = None,
    validate_steps: Annotated[int | None, typer.Option(help="Validate within epochs too, every so many steps.")] = None,
    checkpoint_epochs: Annotated[int, typer.Option(help="Write a checkpoint every so many epochs.")] = 1,
    monitors: Annotated[
        bool, typer.Option(help="Watch for trouble, and stop a run that diverges.", show_default=True)
    ] = True,
    preflight: Annotated[
        bool, typer.Option("--preflight", help="Run the checks of doctor first; stop if one fails.")
    ] = False,
    report: Annotated[bool, typer.Option(help="Write report.html at the end.")] = True,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    out: Annotated[Path | None, typer.Option(help="Run folder, new or empty (default: runs/DATA-1, -2, ...).")] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Go on with this run from its last checkpoint; --epochs may change its length."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object; progress goes to standard error.")
    ] = False,
) -> None:
    """Train a network, print its test accuracy, and write a run folder."""
    reporter = default_reporter(sys.stderr if as_json else sys.stdout)
    sources = {name: context.get_parameter_source(name) for name in context.params}
    given = {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}
    if resume is not None:
        if given - WITH_RESUME:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(given - WITH_RESUME))
            raise OptionError(f"--resume takes the options of the run: leave {flags} out")
        parts = load_parts(read_run(resume).config)
        trainer = Trainer.resume(
            resume,
            epochs=epochs if "epochs" in given else None,
            device=device if "device" in given else None,
            reporter=reporter,
        )
        if "epochs" in given and trainer.config.get("command"):
            # The command that makes the longer run at once: of an option given twice the last one counts.
            trainer.config["command"] = [*trainer.config["command"], "--epochs", str(epochs)]
        with _stoppable(trainer):
            history = trainer.fit(parts.train, parts.validation)
    else:
        parts = options.load_split(data, label, seed)
        model = options.make_model(parts, hidden, dropout, dropout_mode, init, seed)
        command = {"data": data, "label": None if label is None else options.column(label), "split_seed": seed}
        how = options.how_to_train(optimizer, lr, momentum, reg, batch_size, standardize)
        trainer = Trainer(
            model,
            **how,
            lr_decay=lr_decay,
            clip_norm=clip_norm,
            epochs=epochs,
            generator=Generator(seed, stream=1),
            validate_steps=validate_steps,
            patience=patience,
            monitors=monitors,
            checkpoint_epochs=checkpoint_epochs,
            config=command | {"command": ["tinygrad-cr", *sys.argv[1:]]},
            reporter=reporter,
            device=device,
        )
        checks = None
        if preflight:
            checks = check_first(model, parts.train, parts.validation, **how, generator=seed)
            print(checks, file=sys.stderr if as_json else sys.stdout)
            if not checks.ok:
                if as_json:
                    print(checks.to_json())
                raise typer.Exit(1)
        try:
            history = _fit_in_new_folder(trainer, parts, out, Path(data).stem)
        except DivergenceError:
            if report:
                write_report([Path(str(trainer.out))])
            raise
        if checks is not None and trainer.out is not None:
            write_atomically(Path(trainer.out) / PREFLIGHT, (checks.to_json() + "\n").encode())
    _conclude(trainer, parts, history, report=report, as_json=as_json)


def _conclude(trainer: Trainer, parts: Split, history: History, *, report: bool, as_json: bool) -> None:
    """Say how it ended, and leave with the exit code that says so."""
    interrupted = any(event.kind == "interrupted" for event in history.events)
    failures = [event for event in history.events if event.level == "fail"]
    figures = _figures(trainer, parts, history)
    if not (as_json or interrupted or failures):
        print(f"test accuracy {figures['test_accuracy']:.4f}, saved in {trainer.out}", flush=True)
    page = write_report([Path(str(trainer.out))]) if report else None
    if interrupted:
        print(f"interrupted; tinygrad-cr train --resume {trainer.out} goes on", file=sys.stderr)
        raise typer.Exit(130)
    if as_json:
        print(json.dumps(figures | {"report": None if page is None else str(page)}, allow_nan=False))
    if failures:
        where = f" and in {page}" if page else ""
        last = failures[-1]
        print(f"error: {last.kind} in epoch {last.epoch}: what to do stands above{where}", file=sys.stderr)
        raise typer.Exit(1)


def _figures(trainer: Trainer, parts: Split, history: History) -> dict[str, Any]:
    """What a script wants to know of a run."""
    assert parts.test is not None
    best = history.best() if len(history) else {}
    loss, accuracy = evaluate(trainer.model, parts.test, trainer.standardizer)
    return {
        "run": str(trainer.out),
        "test_accuracy": accuracy,
        "test_loss": loss,
        "best_epoch": best.get("epoch"),
        "best_val_accuracy": best.get("val_accuracy"),
        "seconds": history[-1]["seconds"] if len(history) else None,
        "stopped": history.stopped,
        "events": [event.row() for event in history.events],
    }


def _fit_in_new_folder(trainer: Trainer, parts: Split, out: Path | None, name: str) -> History:
    """Train in the folder asked for, or in the first free one; another run may take that at the same moment."""
    while True:
        trainer.out = out or next_run_path(Path("runs"), name)
        try:
            with _stoppable(trainer):
                return trainer.fit(parts.train, parts.validation)
        except RunTakenError:
            if out is not None:
                raise


@contextmanager
def _stoppable(trainer: Trainer) -> Iterator[None]:
    """The first Ctrl-C, or a request to terminate, ends training after the step in progress; a second one at once."""

    def stop(signum: int, _: Any) -> None:
        trainer.interrupt()
        for each, handler in before.items():
            signal.signal(each, handler)

    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    for each in before:
        signal.signal(each, stop)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
