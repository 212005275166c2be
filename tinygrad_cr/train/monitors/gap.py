"""The gap between training and validation: too wide, or none where both are poor."""

from __future__ import annotations

import math
from collections.abc import Iterable

from tinygrad_cr.train.callbacks import Setup
from tinygrad_cr.train.history import Event, History, Row
from tinygrad_cr.train.monitors.monitor import Monitor, ran_to_its_end

RISE = 1.1
VALIDATIONS = 3
"""The validation loss has risen when so many in a row were more than 10 % above the lowest."""

WIDE = 0.1
"""Training accuracy minus validation accuracy, beyond what so few validation rows make by chance."""

PATIENCE = 5
STALLED = 0.95
"""A wide gap is overfitting when the validation loss has fallen by less than 5 % in so many epochs."""

POOR = 0.95
FLAT = 0.1
LEAST_EPOCHS = 8


class Overfitting(Monitor):
    """Tells when the network learns its training rows and no longer what holds for others ("overfitting").

    Either the validation loss rises although the training cost falls, or the accuracies are far apart and the
    validation loss hardly falls any more.
    """

    memory = ("best", "best_epoch", "best_loss", "above", "mark", "mark_epoch", "told")

    def start(self, setup: Setup) -> None:
        """Nothing seen yet."""
        self.rows = 0 if setup.validation is None else len(setup.validation)
        self.slack = 0.01 * math.log(max(2, setup.classes))
        self.best: float | None = None
        self.best_epoch = 0
        self.mark: float | None = None
        self.mark_epoch = 0
        self.best_loss: float | None = None
        self.above, self.told = 0, False

    def epoch(self, row: Row) -> Iterable[Event]:
        """Compare with the best so far."""
        loss = row["val_loss"]
        if self.told or loss is None or not math.isfinite(loss):
            return
        if self.mark is None or loss < STALLED * self.mark:
            self.mark, self.mark_epoch = loss, row["epoch"]
        if self.best is None or loss < self.best:
            self.best, self.best_epoch, self.best_loss, self.above = loss, row["epoch"], None, 0
        elif self.best_loss is None:
            # The mean over the steps just behind the best network; that over the steps before it may be far higher.
            self.best_loss = row["loss"]
        gap = row["accuracy"] - row["val_accuracy"]
        chance = 2 * _chance(row["val_accuracy"], self.rows)
        higher = loss > RISE * self.best + self.slack and gap > chance
        rising = higher and self.best_loss is not None and row["loss"] <= self.best_loss
        self.above = self.above + 1 if rising else 0
        risen = self.above >= VALIDATIONS and row["epoch"] - self.best_epoch >= VALIDATIONS
        if risen or (gap > WIDE + chance and row["epoch"] - self.mark_epoch >= PATIENCE):
            self.told = True
            before, when = (self.best, self.best_epoch) if risen else (self.mark, self.mark_epoch)
            yield Event(
                "warn",
                "overfitting",
                row["epoch"],
                row["step"],
                gap,
                f"the validation loss is {loss:.4g} after epoch {row['epoch']} and was {before:.4g} in epoch {when}, "
                f"while the training part is learned (accuracy {row['accuracy']:.3f}, validation "
                f"{row['val_accuracy']:.3f}): this is overfitting; try more dropout, more reg or more data",
            )


class Capacity(Monitor):
    """Tells at the end when training and validation are equally poor and the cost had stopped to fall ("capacity").

    It is quiet where another monitor has found a reason, or where the learning rate had decayed to next to nothing.
    """

    def start(self, setup: Setup) -> None:
        """Remember how much chance there is in a validation accuracy."""
        self.rows = 0 if setup.validation is None else len(setup.validation)

    def stop(self, history: History) -> Iterable[Event]:
        """Judge the whole run."""
        rows = [row for row in history if row["val_accuracy"] is not None]
        if len(rows) < LEAST_EPOCHS or rows[-1]["epoch"] < LEAST_EPOCHS:
            return
        if not ran_to_its_end(history) or any(e.level == "warn" and e.kind != "loss_spike" for e in history.events):
            return
        quarter = len(rows) // 4
        before, after = _mean_loss(rows[-2 * quarter : -quarter]), _mean_loss(rows[-quarter:])
        decayed = rows[-quarter]["lr"] < 0.05 * max(row["lr"] for row in history)
        last = rows[-1]
        gap = last["accuracy"] - last["val_accuracy"]
        alike = gap < WIDE / 2 + 2 * _chance(last["val_accuracy"], self.rows)
        if last["accuracy"] < POOR and alike and after > (1 - FLAT) * before and not decayed:
            yield Event(
                "note",
                "capacity",
                last["epoch"],
                last["step"],
                last["accuracy"],
                f"training and validation end equally poor in epoch {last['epoch']} (accuracy {last['accuracy']:.3f} "
                f"and {last['val_accuracy']:.3f}) and the cost has flattened at {after:.4g}: a larger network may do "
                "better, or less dropout and reg",
            )


def _mean_loss(rows: list[Row]) -> float:
    return float(sum(row["loss"] for row in rows) / len(rows))


def _chance(accuracy: float, rows: int) -> float:
    """Standard error of an accuracy measured on so many rows."""
    return math.sqrt(max(accuracy * (1 - accuracy), 0.01) / max(1, rows))
