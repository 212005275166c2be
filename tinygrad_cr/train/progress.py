"""What a person sees while a network trains: a bar on a terminal, the lecture's lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import IO, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tinygrad_cr.train.history import Event, Row

LEVELS = {"note": "note", "warn": "warning", "fail": "failure"}
"""How the levels of events are called in the log."""


class Reporter(Protocol):
    """What the trainer tells while it runs."""

    def start(self, epochs: int, steps_per_epoch: int) -> None:
        """Training begins."""

    def steps(self, done: int) -> None:
        """So many updates were made since training began."""

    def epoch(self, row: Row, epochs: int) -> None:
        """An epoch ended."""

    def note(self, text: str) -> None:
        """Something a person should know."""

    def stop(self, best_accuracy: float | None) -> None:
        """Training ended, with this best validation accuracy; None if it was cut short."""


def finished_line(best_accuracy: float) -> str:
    """The last line of a run.

    >>> finished_line(1.0)
    'finished optimization. best validation accuracy: 1.000000'
    """
    return f"finished optimization. best validation accuracy: {best_accuracy:f}"


def epoch_line(row: Row, epochs: int) -> str:
    """An epoch as the CS231n lecture prints it.

    >>> epoch_line({"epoch": 1, "loss": 2.302603, "accuracy": 0.4, "val_accuracy": 0.4, "lr": 1e-3}, 20)
    'Finished epoch 1 / 20: cost 2.302603, train: 0.400000, val 0.400000, lr 1.000000e-03'
    """
    validation = float("nan") if row["val_accuracy"] is None else row["val_accuracy"]
    return (
        f"Finished epoch {row['epoch']} / {epochs}: cost {row['loss']:f}, train: {row['accuracy']:f}, "
        f"val {validation:f}, lr {row['lr']:e}"
    )


def validation_line(row: Row, epochs: int) -> str:
    """A validation within an epoch.

    >>> validation_line({"epoch": 1, "step": 200, "loss": 0.5, "val_accuracy": 0.8, "val_loss": 0.6}, 20)
    'step 200, in epoch 1 / 20: cost 0.500000, val 0.800000, val cost 0.600000'
    """
    return (
        f"step {row['step']}, in epoch {row['epoch']} / {epochs}: cost {row['loss']:f}, "
        f"val {row['val_accuracy']:f}, val cost {row['val_loss']:f}"
    )


def event_line(event: Event) -> str:
    """What a callback saw.

    >>> event_line(Event("warn", "slow", 1, 36, 2.3, "the cost has barely changed"))
    'warning: the cost has barely changed'
    """
    return f"{LEVELS[event.level]}: {event.message}"


class Silent:
    """Says nothing."""

    def start(self, epochs: int, steps_per_epoch: int) -> None:
        """Nothing."""

    def steps(self, done: int) -> None:
        """Nothing."""

    def epoch(self, row: Row, epochs: int) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def stop(self, best_accuracy: float | None) -> None:
        """Nothing."""


class Lines(Silent):
    """Prints a line an epoch."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self.stream = stream or sys.stdout

    def epoch(self, row: Row, epochs: int) -> None:
        """Print the epoch's line."""
        print(epoch_line(row, epochs), file=self.stream, flush=True)

    def note(self, text: str) -> None:
        """Print it."""
        print(text, file=self.stream, flush=True)

    def stop(self, best_accuracy: float | None) -> None:
        """Print the last line."""
        if best_accuracy is not None:
            print(finished_line(best_accuracy), file=self.stream, flush=True)


class Bar(Silent):
    """Shows a progress bar with the figures of the last epoch.

    Within an epoch it moves ten times a second: a step of a small network takes less time than drawing it.
    """

    interval = 0.1

    def __init__(self, stream: IO[str] | None = None) -> None:
        self.console = Console(file=stream or sys.stdout)
        self.progress = Progress(
            TextColumn("epoch"),
            MofNCompleteColumn(),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=self.console,
        )

    def start(self, epochs: int, steps_per_epoch: int) -> None:
        """Show an empty bar."""
        self.steps_per_epoch = steps_per_epoch
        self.drawn = time.monotonic()
        self.task = self.progress.add_task("train", total=epochs, figures="")
        self.progress.start()

    def steps(self, done: int) -> None:
        """Move the bar on within an epoch."""
        now = time.monotonic()
        if now - self.drawn > self.interval:
            self.drawn = now
            self.progress.update(self.task, completed=done / self.steps_per_epoch)

    def epoch(self, row: Row, epochs: int) -> None:
        """Show the figures of the epoch."""
        validation = "" if row["val_accuracy"] is None else f"  val {row['val_accuracy']:.4f}"
        figures = f"cost {row['loss']:.4f}  train {row['accuracy']:.4f}{validation}  lr {row['lr']:.2e}"
        self.progress.update(self.task, completed=row["epoch"], figures=figures)

    def note(self, text: str) -> None:
        """Print it above the bar."""
        self.console.print(text, highlight=False, markup=False)

    def stop(self, best_accuracy: float | None) -> None:
        """Leave the bar as it is and print the last line below it."""
        self.progress.stop()
        if best_accuracy is not None:
            self.console.print(finished_line(best_accuracy), highlight=False)


def default_reporter(stream: IO[str] | None = None) -> Reporter:
    """A bar where somebody watches, lines where a file or a pipe does."""
    target = stream or sys.stdout
    return Bar(target) if target.isatty() else Lines(target)
