"""`Callback`: somebody who watches a training run, says what was seen, and may ask to stop it.

The trainer calls its callbacks in this order: the monitors (see `monitors`), early stopping if a patience was given,
then the callbacks that were passed in, as they stand in the list. All of them see the same observation, also after one
has asked to stop; where one calls the run lost ("fail"), only that and further wishes to stop are told. They read the
model and never change it: the trainer's numbers are the same with and without them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tinygrad_cr.data import Dataset, Standardizer
from tinygrad_cr.errors import OptionError
from tinygrad_cr.nn import Module
from tinygrad_cr.options import integer, number
from tinygrad_cr.train.history import Event, History, Row

STEPS_BETWEEN_OBSERVATIONS = 50
"""Seldom enough that looking costs nothing, often enough that a run that explodes is stopped within its epoch."""


@dataclass(frozen=True)
class Setup:
    """What is trained, on what: known before the first step.

    Attributes:
        model, standardizer: as the trainer uses them.
        sample: the rows of the training part on which the training accuracy is measured.
        validation: the validation part, or None.
        names: the parameters in the order of `Steps.norms`.
        regularized: for each of them, whether penalties apply to it: true for weights, false for biases.
        classes: how many the data has.
        epochs, steps_per_epoch: how long training is to last.
        reg: strength of the penalty; `PerMember` if members of a population differ in it.
    """

    model: Module
    standardizer: Standardizer
    sample: Dataset
    validation: Dataset | None
    names: tuple[str, ...]
    regularized: tuple[bool, ...]
    classes: int
    epochs: int
    steps_per_epoch: int
    reg: Any = 0.0


@dataclass(frozen=True)
class Steps:
    """A few updates in a row, at most `STEPS_BETWEEN_OBSERVATIONS`.

    Attributes:
        epoch, step: of the last of them, both from 1.
        costs: the cost before each of these updates, penalty included, in order.
        lr: of the last update.
        norms: [k, 2] float64, for each parameter ``sum(p**2)`` before the last update and ``sum(update**2)``; None if
            its cost is not finite, which ends the run.
    """

    epoch: int
    step: int
    costs: Sequence[float]
    lr: float
    norms: Any


class Callback:
    """Base class: each hook does nothing. A hook returns, or yields, the events that it saw.

    >>> class Patient(Callback):
    ...     def epoch(self, row):
    ...         if row["accuracy"] == 1.0:
    ...             yield Event("note", "learned", row["epoch"], row["step"], 1.0, "knows its data by heart", stop=True)
    >>> list(Patient().epoch({"epoch": 3, "step": 12, "accuracy": 1.0}))[0].stop
    True
    """

    def start(self, setup: Setup) -> None:
        """Before the first step, also of a resumed run (`load_state_dict` comes after it)."""

    def steps(self, seen: Steps) -> Iterable[Event] | None:
        """After a few updates. A generator, a list, or None."""

    def epoch(self, row: Row) -> Iterable[Event] | None:
        """After a row was added to the history: at the end of an epoch, and at each validation within one."""

    def stop(self, history: History) -> Iterable[Event] | None:
        """After the last step, however training ended; the model holds its best parameters again."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on as if nothing had happened, as JSON can hold it."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""


def checked_events(callback: Callback, given: Any) -> list[Event]:
    """What a hook returned, as a list.

    Raises:
        OptionError: something else than events.
    """
    events = [] if given is None else list(given)
    for event in events:
        if not isinstance(event, Event):
            raise OptionError(f"{type(callback).__name__} gave {event!r}; a hook returns or yields Events, or None")
    return events


class EarlyStopping(Callback):
    """Asks to stop when an observation has not improved for some epochs.

    Args:
        patience: so many validations in a row without improvement end the run.
        key: what to watch: "val_loss", "val_accuracy", "loss" or "accuracy"; accuracies want to grow, losses to fall.
        min_delta: an improvement is one by more than this.

    Rows in which the observation was not made do not count.

    >>> stopping = EarlyStopping(patience=2, key="val_loss")
    >>> [bool(list(stopping.epoch({"epoch": i, "step": i, "val_loss": v}))) for i, v in enumerate([3, 2, 2, 4])]
    [False, False, False, True]
    """

    def __init__(self, patience: int, key: str = "val_accuracy", min_delta: float = 0.0) -> None:
        self.patience = integer("patience", patience, least=1)
        self.key = key
        self.min_delta = number("min_delta", min_delta)
        self.best: float | None = None
        self.waited = 0

    def epoch(self, row: Row) -> Iterable[Event]:
        """Count."""
        value = row.get(self.key)
        if value is None:
            return
        sign = 1 if self.key.endswith("accuracy") else -1
        if self.best is None or sign * (value - self.best) > self.min_delta:
            self.best, self.waited = value, 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            yield Event(
                "note",
                "early_stopping",
                row["epoch"],
                row["step"],
                self.best,
                f"stopped after epoch {row['epoch']}: {self.key} has not been better than {self.best:.4g} "
                f"for {self.waited} validations",
                stop=True,
            )

    def state_dict(self) -> dict[str, Any]:
        """The best value so far and how long ago it was."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting."""
        self.best, self.waited = state["best"], state["waited"]
