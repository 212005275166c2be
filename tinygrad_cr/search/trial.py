"""A trial: one point of a search space, trained once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tinygrad_cr.random import Generator
from tinygrad_cr.search.parameters import PARAMETERS, complete

Row = dict[str, Any]
Shape = tuple[Any, ...]

FINISHED, DIVERGED, STOPPED = "finished", "diverged", "stopped"
"""How a trial ended: after all its epochs, because its cost did, or early because it was not good enough."""


@dataclass(frozen=True)
class Trial:
    """What is known before training.

    Attributes:
        stage, number: both from 1.
        point: the hyperparameters of the space, in the form that rows have.
        seed: of the stage, even: the stream of weights is the trial's number.

    >>> trial = Trial(1, 7, {"lr": 0.1}, seed=4)
    >>> trial.weights(), trial.shuffles()
    (Generator(seed=4, stream=7, draw=0), Generator(seed=5, stream=0, draw=0))
    """

    stage: int
    number: int
    point: dict[str, Any]
    seed: int

    def weights(self) -> Generator:
        """The source of initial weights and dropout masks."""
        return Generator(self.seed, stream=self.number)

    def shuffles(self) -> Generator:
        """The source of the order of rows, which is the same for all trials of a stage."""
        return Generator(self.seed + 1)

    def shape(self) -> Shape:
        """What trials of one population have in common.

        >>> Trial(1, 1, {"hidden": [50], "lr": 0.1}, 0).shape()
        (32, (50,), 'sgd')
        """
        values = complete(self.point)
        shared = (values[name] for name, parameter in PARAMETERS.items() if parameter.shared)
        return tuple(tuple(value) if isinstance(value, list) else value for value in shared)


@dataclass(frozen=True)
class Outcome:
    """What training a trial came to.

    Attributes:
        status: "finished", "diverged" or "stopped".
        epoch: epochs that it was trained.
        val_accuracy, val_loss, accuracy, loss: of its best epoch; None if it has none.
        seconds: its training took.
        state: the parameters of its best epoch, if they were asked for.
    """

    status: str
    epoch: int
    val_accuracy: float | None = None
    val_loss: float | None = None
    accuracy: float | None = None
    loss: float | None = None
    seconds: float = 0.0
    state: dict[str, Any] | None = None


def make_row(trial: Trial, outcome: Outcome, *, trials: int, epochs: int, rung: int | None) -> Row:
    """The record of a trial: flat, and as JSON can hold it.

    Args:
        trials, epochs: of the stage.
        rung: of successive halving, from 1; None without.

    >>> row = make_row(Trial(1, 2, {"lr": 0.1}, 4), Outcome("diverged", 0), trials=9, epochs=5, rung=None)
    >>> row["trial"], row["trials"], row["val_accuracy"], row["lr"]
    (2, 9, None, 0.1)
    """
    return (
        {"trial": trial.number, "stage": trial.stage, "trials": trials, "epochs": epochs, "epoch": outcome.epoch}
        | ({} if rung is None else {"rung": rung})
        | {
            "seed": trial.seed,
            "status": outcome.status,
            "val_accuracy": outcome.val_accuracy,
            "val_loss": outcome.val_loss,
            "accuracy": outcome.accuracy,
            "loss": outcome.loss,
            "seconds": outcome.seconds,
        }
        | trial.point
    )


def scored(rows: Sequence[Row]) -> list[Row]:
    """The trials that may be called good: those that have a score and did not diverge."""
    return [row for row in rows if row["status"] != DIVERGED and row["val_accuracy"] is not None]


def ranked(rows: Sequence[Row]) -> list[Row]:
    """The trials that may be called good, the best first.

    Those that went furthest in the successive halving of their stage come first, as stages may have different numbers
    of rungs; then the validation accuracy counts, then its loss, then who was first.

    >>> rows = [{"trial": i, "stage": 1, "status": "finished", "val_accuracy": a, "val_loss": 1.0}
    ...         for i, a in enumerate([0.5, 0.7, 0.6])]
    >>> [row["trial"] for row in ranked(rows)]
    [1, 2, 0]
    """
    furthest: dict[int, int] = {}
    for row in rows:
        furthest[row["stage"]] = max(row.get("rung", 0), furthest.get(row["stage"], 0))

    def order(row: Row) -> tuple[float, ...]:
        short = furthest[row["stage"]] - row.get("rung", 0)
        return short, -row["val_accuracy"], row["val_loss"], row["stage"], row["trial"]

    return sorted(scored(rows), key=order)
