"""What a person sees while a search runs: the lecture's lines, and how much time is left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import IO, Any, Protocol, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from tinygrad_cr.errors import OptionError
from tinygrad_cr.search.spaces import Space
from tinygrad_cr.search.trial import Row


@runtime_checkable
class SearchReporter(Protocol):
    """What a search tells while it runs.

    A subclass says what it cares about; what it leaves out is not told.

    >>> from tinygrad_cr.data import load, split
    >>> from tinygrad_cr.search import random_search
    >>> class Scores(SearchReporter):
    ...     def trial(self, row, space):
    ...         print(row["trial"], row["status"])
    >>> parts = split(load("digits"), seed=0)
    >>> result = random_search(*parts[:2], {"hidden": 10}, trials=2, epochs=1, reporter=Scores())
    1 finished
    2 finished
    """

    def start(self, stage: int, trials: int, epochs: int) -> None:
        """A stage begins."""

    def trial(self, row: Row, space: Space) -> None:
        """A trial has finished."""

    def left(self, done: float, seconds: float | None) -> None:
        """This part of the whole search is done, and so much time is left; None if nobody can tell yet."""

    def note(self, text: str) -> None:
        """Something a person should know."""

    def stop(self) -> None:
        """The search has ended, or was cut short."""


def trial_line(row: Row, space: Space) -> str:
    """A trial as the CS231n lecture prints it: its score, what was varied, and its number.

    >>> row = {"trial": 1, "trials": 100, "val_accuracy": 0.412, "status": "finished", "lr": 1.405206e-04}
    >>> from tinygrad_cr.search.spaces import LogUniform
    >>> trial_line(row, Space({"lr": LogUniform(1e-6, 1e-3), "momentum": 0.9}))
    'val_acc: 0.412000, lr: 1.405206e-04, (1 / 100)'
    """
    return f"val_acc: {_score(row)}, {point_text(row, space)}({row['trial']} / {row['trials']})"


def point_text(row: Row, space: Space) -> str:
    """What was varied, each value followed by a comma and a space."""
    return "".join(f"{name}: {_value(name, row[name])}, " for name in space.free)


def time_text(seconds: float) -> str:
    """Seconds as people say it.

    >>> time_text(12.3), time_text(125), time_text(7300)
    ('12 s', '2 min 05 s', '2 h 01 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


class Silent:
    """Says nothing."""

    def start(self, stage: int, trials: int, epochs: int) -> None:
        """Nothing."""

    def trial(self, row: Row, space: Space) -> None:
        """Nothing."""

    def left(self, done: float, seconds: float | None) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def stop(self) -> None:
        """Nothing."""


class Lines(Silent):
    """Prints a line a trial and, at most every `interval` seconds, the time that is left.

    Args:
        stream: where to; None for standard output.
        begun: called when a stage begins; the ledger, if there is one, is open then.
    """

    interval = 10.0

    def __init__(self, stream: IO[str] | None = None, begun: Callable[[], object] | None = None) -> None:
        self.stream = stream or sys.stdout
        self.begun = begun
        self.said = time.monotonic()

    def start(self, stage: int, trials: int, epochs: int) -> None:
        """Print how much there is to do."""
        if self.begun is not None:
            self.begun()
        self.note(f"stage {stage}: {trials} trials, {epochs} epochs")

    def trial(self, row: Row, space: Space) -> None:
        """Print the trial's line."""
        self.note(trial_line(row, space))

    def left(self, done: float, seconds: float | None) -> None:
        """Print it."""
        now = time.monotonic()
        if seconds is not None and done < 1 and now - self.said >= self.interval:
            self.said = now
            self.note(f"{done:.0%} done, about {time_text(seconds)} left")

    def note(self, text: str) -> None:
        """Print it."""
        print(text, file=self.stream, flush=True)


class Bar(Lines):
    """The lines, and below them a bar with the time that is left."""

    def __init__(self, stream: IO[str] | None = None, begun: Callable[[], object] | None = None) -> None:
        super().__init__(stream, begun)
        self.console = Console(file=self.stream)
        self.progress = Progress(
            TextColumn("search"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:.0f} %"),
            TextColumn("{task.fields[left]}"),
            console=self.console,
        )
        self.task: Any = None

    def start(self, stage: int, trials: int, epochs: int) -> None:
        """Show the bar."""
        if self.task is None:
            self.task = self.progress.add_task("search", total=1.0, left="")
            self.progress.start()
        super().start(stage, trials, epochs)

    def left(self, done: float, seconds: float | None) -> None:
        """Move the bar."""
        if self.task is not None:
            text = "" if seconds is None else f"{time_text(seconds)} left"
            self.progress.update(self.task, completed=done, left=text)

    def note(self, text: str) -> None:
        """Print it above the bar."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def stop(self) -> None:
        """Leave the bar as it is."""
        self.progress.stop()


def as_reporter(given: SearchReporter | bool) -> SearchReporter:
    """A reporter: for True a bar where somebody watches and lines elsewhere, for False silence.

    >>> type(as_reporter(False)).__name__
    'Silent'

    Raises:
        OptionError: something else.
    """
    if not isinstance(given, bool):
        if not isinstance(given, SearchReporter):
            raise OptionError(
                "reporter must be True for lines, False for silence, or an object with the methods of "
                f"search.SearchReporter (start, trial, left, note, stop); got {given!r}"
            )
        return given
    if not given:
        return Silent()
    return Bar() if sys.stdout.isatty() else Lines()


class Clock:
    """How much of the work is done, and how long the rest takes at the speed so far.

    Args:
        work: all of it, in epochs of trials.

    >>> clock = Clock(100)
    >>> clock.skip(50)
    >>> clock.done, clock.left()
    (0.5, None)
    """

    def __init__(self, work: float) -> None:
        self.work, self.skipped, self.made = float(work), 0.0, 0.0
        self.begin = time.monotonic()

    def skip(self, work: float) -> None:
        """So much was done before."""
        self.skipped += work

    def add(self, work: float) -> None:
        """So much was done now."""
        self.made += work

    @property
    def done(self) -> float:
        """As a part of all."""
        return min(1.0, (self.skipped + self.made) / self.work)

    def left(self) -> float | None:
        """In seconds; None before anything was done."""
        if not self.made:
            return None
        rest = max(0.0, self.work - self.skipped - self.made)
        return rest * (time.monotonic() - self.begin) / self.made


def _score(row: Row) -> str:
    if row["status"] == "diverged" or row["val_accuracy"] is None:
        return str(row["status"])
    return f"{row['val_accuracy']:f}"


def _value(name: str, value: Any) -> str:
    if name in ("lr", "reg") or (name == "init" and isinstance(value, float)):
        return f"{value:e}"
    return f"{value:.6f}" if isinstance(value, float) else str(value)
