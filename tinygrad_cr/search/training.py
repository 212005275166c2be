"""The one place where a search trains networks: what happens to a group of trials, in whatever process."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tinygrad_cr.data import Dataset, Standardizer
from tinygrad_cr.errors import DataError
from tinygrad_cr.nn import MLP
from tinygrad_cr.search.grouping import GroupTask
from tinygrad_cr.search.parameters import complete
from tinygrad_cr.search.trial import DIVERGED, FINISHED, STOPPED, Outcome, Row, Trial, make_row
from tinygrad_cr.train import Callback, Event, Trainer
from tinygrad_cr.train.evaluate import check_fit

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
        device: where they are trained.
    """

    train: Dataset
    validation: Dataset
    standardizer: Standardizer
    patience: int | None = None
    dtype: str = "float32"
    device: str = "cpu"

    @property
    def ends(self) -> tuple[int, int]:
        """How many features and classes there are."""
        return self.train.features, self.train.classes


def check_parts(train: Dataset, validation: Dataset, test: Dataset | None = None) -> None:
    """Raise unless the parts fit each other: in this process, before any worker is asked.

    Raises:
        DataError, ShapeError: a part without labels, or with other features or more classes than the training part.

    >>> check_parts(Dataset([[0.0, 1.0]], [0]), Dataset([[0.0, 1.0]]))
    Traceback (most recent call last):
    tinygrad_cr.errors.DataError: the validation part has no labels: a search wants to know what is right
    """
    for name, part in (("training", train), ("validation", validation), ("test", test)):
        if part is None:
            continue
        if part.y is None:
            raise DataError(f"the {name} part has no labels: a search wants to know what is right")
        check_fit(MLP([train.features, train.classes], init=0.0), part)


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
    """Train trials of one shape side by side, for so many epochs each unless they end early; what each came to.

    An outcome does not depend on who else is in the group.

    Args:
        report: see `Report`.
        keep: whether the outcomes hold the parameters of the best epochs.
    """
    if len(trials) <= 1:
        # Alone, a network may use every core.
        return [_train(trial, material, epochs, report, keep) for trial in trials]
    points = [complete(trial.point) for trial in trials]
    model = MLP(
        [material.ends[0], *points[0]["hidden"], material.ends[1]],
        members=len(trials),
        dropout=[point["dropout"] for point in points],
        init=[point["init"] for point in points],
        generator=[trial.weights() for trial in trials],
        dtype=material.dtype,
    )
    own: dict[str, Any] = {name: [point[name] for point in points] for name in ("lr", "reg", "momentum", "lr_decay")}
    trainer = Trainer(
        model,
        **own,
        **{name: points[0][name] for name in ("batch_size", "optimizer")},
        epochs=epochs,
        standardize=material.standardizer,
        **_order_of_rows(trials),
        patience=material.patience,
        device=material.device,
        callbacks=[] if report is None else [_Listener(trials, report)],
        reporter=False,
    )
    begin = time.perf_counter()
    with np.errstate(over="ignore", invalid="ignore"):
        history = trainer.fit(material.train, material.validation)
    seconds = (time.perf_counter() - begin) / len(trials)
    return [
        _outcome(
            [row for row in history if row["member"] == m],
            [event for event in history.events if event.member == m],
            seconds,
            model[m].state_dict() if keep else None,
        )
        for m in range(len(trials))
    ]


def _order_of_rows(trials: Sequence[Trial]) -> dict[str, Any]:
    """The Trainer's options. Trials of a stage have one order, and one gather serves all; repeats have their own."""
    if len({trial.seed for trial in trials}) == 1:
        return {"shuffle": "shared", "generator": trials[0].shuffles()}
    return {"generator": [trial.shuffles() for trial in trials]}


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
        device=material.device,
        callbacks=[] if report is None else [_Listener([trial], report)],
        reporter=False,
    )
    begin = time.perf_counter()
    # A rate that is far too high overflows before the monitors see it: that is what a search is for.
    with np.errstate(over="ignore", invalid="ignore"):
        history = trainer.fit(material.train, material.validation)
    return _outcome(history, history.events, time.perf_counter() - begin, model.state_dict() if keep else None)


class _Listener(Callback):
    """Passes epochs on, and ends a trial when it is told to."""

    def __init__(self, trials: Sequence[Trial], report: Report) -> None:
        self.trials, self.report = trials, report

    def epoch(self, row: Row) -> Iterable[Event]:
        """Report it."""
        member = row.get("member")
        if self.report(self.trials[member or 0], row) == STOP:
            message = "was told to stop"
            yield Event("note", "told_to_stop", row["epoch"], row["step"], None, message, stop=True, member=member)


def _outcome(rows: Sequence[Row], events: Sequence[Event], seconds: float, state: dict[str, Any] | None) -> Outcome:
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
