"""The one place where a search trains networks: what happens to a group of trials, in whatever process."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tinygrad_cr.data import Dataset, Standardizer
from tinygrad_cr.nn import MLP
from tinygrad_cr.search.grouping import GroupTask
from tinygrad_cr.search.parameters import complete
from tinygrad_cr.search.trial import DIVERGED, FINISHED, STOPPED, Outcome, Row, Trial, make_row
from tinygrad_cr.train import Callback, Event, History, Setup, Trainer

STOP = "stop"
Report = Callable[[Trial, Row], str | None]
"""Hears of each epoch of each trial; the answer "stop" ends that trial."""


@dataclass(frozen=True)
class Material:
    """What all trials of a search are trained on.

    Attributes:
        train, validation: the parts.
        standardizer: fitted on the training part.
        patience: so many epochs in a row without a better validation accuracy end a trial; None for never.
        dtype: of the networks.
    """

    train: Dataset
    validation: Dataset
    standardizer: Standardizer
    patience: int | None = None
    dtype: str = "float32"

    @property
    def ends(self) -> tuple[int, int]:
        """How many features and classes there are."""
        return self.train.features, self.train.classes


class Shared(Protocol):
    """Something that holds the material, and is small to send to another process."""

    @property
    def value(self) -> Material:
        """The material."""


def run_group(task: GroupTask, material: Shared) -> list[Row]:
    """Train a group of trials; their rows. A module-level function of plain data, so that any process can be asked."""
    outcomes = train_group(task.trials, material.value, task.epochs)
    return [
        make_row(trial, outcome, trials=task.stage_trials, epochs=task.stage_epochs, rung=task.rung)
        for trial, outcome in zip(task.trials, outcomes, strict=True)
    ]


def train_group(
    trials: Sequence[Trial], material: Material, epochs: int, report: Report | None = None, *, keep: bool = False
) -> list[Outcome]:
    """Train trials of one shape, for so many epochs each unless they end early; what each came to.

    Args:
        report: see `Report`.
        keep: whether the outcomes hold the parameters of the best epochs.
    """
    return [_train(trial, material, epochs, report, keep) for trial in trials]


def make_model(point: dict[str, Any], ends: tuple[int, int], generator: Any, dtype: str = "float32") -> MLP:
    """The network that a point describes.

    >>> make_model({"hidden": [5], "dropout": 0.5}, (4, 3), 0).sizes
    [4, 5, 3]
    """
    values = complete(point)
    return MLP(
        [ends[0], *values["hidden"], ends[1]],
        dropout=values["dropout"],
        init=values["init"],
        generator=generator,
        dtype=dtype,
    )


def _train(trial: Trial, material: Material, epochs: int, report: Report | None, keep: bool) -> Outcome:
    values = complete(trial.point)
    model = make_model(trial.point, material.ends, trial.weights(), material.dtype)
    trainer = Trainer(
        model,
        **{name: values[name] for name in ("lr", "reg", "momentum", "lr_decay", "batch_size", "optimizer")},
        epochs=epochs,
        standardize=material.standardizer,
        generator=trial.shuffles(),
        patience=material.patience,
        callbacks=[] if report is None else [_Listener(trial, report)],
        reporter=False,
    )
    begin = time.perf_counter()
    # A rate that is far too high overflows before the monitors see it: that is what a search is for.
    with np.errstate(over="ignore", invalid="ignore"):
        history = trainer.fit(material.train, material.validation)
    return _outcome(history, history.events, time.perf_counter() - begin, model.state_dict() if keep else None)


class _Listener(Callback):
    """Passes epochs on, and ends the run when it is told to."""

    def __init__(self, trial: Trial, report: Report) -> None:
        self.trial, self.report = trial, report

    def start(self, setup: Setup) -> None:
        """Nothing."""

    def epoch(self, row: Row) -> Iterable[Event]:
        """Report it."""
        if self.report(self.trial, row) == STOP:
            yield Event("note", "told_to_stop", row["epoch"], row["step"], None, "was told to stop", stop=True)


def _outcome(rows: History, events: Sequence[Event], seconds: float, state: dict[str, Any] | None) -> Outcome:
    """What the history of one network came to."""
    end = next((event for event in events if event.stop), None)
    status = FINISHED if end is None else DIVERGED if end.kind in ("divergence", "explosion") else STOPPED
    valid = [row for row in rows if math.isfinite(row["val_loss"])]
    best = max(valid, key=lambda row: row["val_accuracy"], default=None)
    return Outcome(
        status=status,
        epoch=rows[-1]["epoch"] if len(rows) else 0,
        **{key: best[key] for key in ("val_accuracy", "val_loss", "accuracy", "loss")} if best else {},
        seconds=seconds,
        state=state,
    )


def describe_material(material: Material) -> dict[str, Any]:
    """The options that decide what comes out, as JSON can hold them."""
    options = {key: value for key, value in vars(material).items() if key in ("patience", "dtype")}
    return options | {"standardize": material.standardizer.mode}
