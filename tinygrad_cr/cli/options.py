"""The options that several commands share, and what they stand for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import typer

from tinygrad_cr.data import Dataset, Label, Split, load, split
from tinygrad_cr.data.standardize import MODES
from tinygrad_cr.errors import DataError, OptionError
from tinygrad_cr.nn import MLP
from tinygrad_cr.nn.init import INITS
from tinygrad_cr.operands import DROPOUT_MODES
from tinygrad_cr.optim import OPTIMIZERS


def one_of(names: Iterable[str]) -> str:
    """A list as a sentence has it.

    >>> one_of(["sgd", "adam", "adamw"])
    'sgd, adam or adamw'
    """
    *first, last = names
    return f"{', '.join(first)} or {last}"


DEVICES = ("cpu", "gpu")
Data = Annotated[str, typer.Option(help="digits, mnist, fashion-mnist, cifar10, or a .npz or .csv file.")]
LabelColumn = Annotated[str | None, typer.Option(help="Label column of a .csv file: its name, or its position from 0.")]
Hidden = Annotated[str, typer.Option(help="Widths of the hidden layers, e.g. 100 or 256,128; '' for none.")]
Dropout = Annotated[float, typer.Option(help="Probability of dropping a hidden unit, in [0, 1).")]
DropoutMode = Annotated[str, typer.Option(help=f"Where to rescale: {one_of(DROPOUT_MODES)}.")]
Epochs = Annotated[int, typer.Option(help="How often each training row is seen.")]
BatchSize = Annotated[int, typer.Option(help="Rows in a minibatch.")]
LearningRate = Annotated[float, typer.Option(help="Learning rate at the start.")]
Momentum = Annotated[float, typer.Option(help="Momentum of SGD, in [0, 1).")]
LearningRateDecay = Annotated[float, typer.Option(help="Factor on the learning rate after each epoch.")]
Regularization = Annotated[float, typer.Option(help="Strength of the penalty 0.5 * reg * sum(W**2).")]
OptimizerName = Annotated[str, typer.Option(help=f"Update rule: {one_of(OPTIMIZERS)}.")]
Init = Annotated[str, typer.Option(help=f"{', '.join(INITS)}, or a standard deviation such as 1e-4.")]
Standardize = Annotated[str, typer.Option(help=f"How features are shifted and scaled: {one_of(MODES)}.")]
Device = Annotated[str, typer.Option(help=f"Where to compute: {one_of(DEVICES)}.")]
Seed = Annotated[int, typer.Option(help="Same seed, same run.")]


def load_split(data: str, label: str | None, seed: int) -> Split:
    """The parts of a data set.

    Raises:
        DataError: it cannot be loaded, or has too few rows for three parts.
    """
    parts = split(load(data, label=Label.AUTO if label is None else column(label)), seed=seed)
    if parts.test is None:
        raise DataError(f"{data} has too few rows for a test part")
    return parts


def judges(parts: Split, data: str) -> tuple[Dataset, Dataset]:
    """The validation part, which chooses, and the test part, which chooses nothing.

    Raises:
        DataError: one of them is missing.
    """
    if parts.validation is None or parts.test is None:
        raise DataError(f"{data} has too few rows for a validation part and a test part")
    return parts.validation, parts.test


def make_model(parts: Split, hidden: str, dropout: float, dropout_mode: str, init: str, seed: int) -> MLP:
    """The network that the options describe."""
    return MLP(
        [parts.train.features, *widths(hidden), parts.train.classes],
        dropout=dropout,
        dropout_mode=dropout_mode,
        init=number_or_name(init),
        generator=seed,
    )


def how_to_train(
    optimizer: str, lr: float, momentum: float, reg: float, batch_size: int, standardize: str
) -> dict[str, Any]:
    """What the doctor looks at and the trainer does, as arguments of both."""
    return {
        "optimizer": optimizer,
        "lr": lr,
        "momentum": momentum,
        "reg": reg,
        "batch_size": batch_size,
        "standardize": standardize,
    }


def column(text: str) -> str | int:
    """A column of a table, by name or by position.

    >>> column("kind"), column("-1")
    ('kind', -1)
    """
    return int(text) if text.lstrip("-").isdigit() else text


def widths(text: str) -> list[int]:
    """The widths of hidden layers.

    >>> widths("256,128"), widths("")
    ([256, 128], [])
    """
    try:
        return [int(width) for width in text.split(",")] if text.strip() else []
    except ValueError:
        raise OptionError(f"--hidden wants widths such as 100 or 256,128; got {text!r}") from None


def number_or_name(text: str) -> str | float:
    """A standard deviation, or the name of an initialisation.

    >>> number_or_name("1e-2"), number_or_name("he")
    (0.01, 'he')
    """
    try:
        return float(text)
    except ValueError:
        return text
