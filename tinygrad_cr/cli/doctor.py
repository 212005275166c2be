"""`tinygrad-cr doctor`: everything that can be checked before training, with a verdict on each."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

from tinygrad_cr.cli import options
from tinygrad_cr.doctor import preflight

IGNORED = "Taken as train does; no check depends on it."


def doctor(
    data: options.Data = "digits",
    label: options.LabelColumn = None,
    hidden: options.Hidden = "200",
    dropout: options.Dropout = 0.3,
    dropout_mode: options.DropoutMode = "inverted",
    epochs: Annotated[int, typer.Option(help=IGNORED)] = 40,
    batch_size: options.BatchSize = 32,
    lr: options.LearningRate = 0.01,
    momentum: options.Momentum = 0.9,
    lr_decay: Annotated[float, typer.Option(help=IGNORED)] = 0.97,
    reg: options.Regularization = 0.0,
    optimizer: options.OptimizerName = "sgd",
    init: options.Init = "he",
    standardize: options.Standardize = "per-feature",
    clip_norm: Annotated[float | None, typer.Option(help=IGNORED)] = None,
    patience: Annotated[int | None, typer.Option(help=IGNORED)] = None,
    validate_steps: Annotated[int | None, typer.Option(help=IGNORED)] = None,
    checkpoint_epochs: Annotated[int, typer.Option(help=IGNORED)] = 1,
    monitors: Annotated[bool, typer.Option(help=IGNORED)] = True,
    seed: options.Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
) -> None:
    """Check data, network and learning rate before training, as train would use them; exit code 1 if a check fails."""
    parts = options.load_split(data, label, seed)
    model = options.make_model(parts, hidden, dropout, dropout_mode, init, seed)
    how = options.how_to_train(optimizer, lr, momentum, reg, batch_size, standardize)
    report = preflight(model, parts.train, parts.validation, **how, generator=seed)
    if as_json:
        print(report.to_json())
    elif sys.stdout.isatty():
        Console().print(report)
    else:
        print(report)
    if not report.ok:
        raise typer.Exit(1)
