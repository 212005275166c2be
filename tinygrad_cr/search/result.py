"""`SearchResult`: the trials of a search as rows, and what they say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, overload

from tinygrad_cr.errors import OptionError
from tinygrad_cr.search import ledger
from tinygrad_cr.search.progress import point_text, trial_line
from tinygrad_cr.search.spaces import Space, describe
from tinygrad_cr.search.trial import Row, ranked, scored

if TYPE_CHECKING:
    from tinygrad_cr.search.winner import Winner

SHOWN = 10


@dataclass(frozen=True)
class Stage:
    """A part of a search: so many trials of one space.

    Attributes:
        number: from 1.
        space: the ranges of this stage.
        trials: how many.
        epochs: that each may be trained.

    >>> stage = Stage(2, Space({"lr": 0.1}), trials=30, epochs=5)
    >>> stage.number, stage.space.free
    (2, [])
    """

    number: int
    space: Space
    trials: int
    epochs: int


class SearchResult(Sequence[Row]):
    """The trials of a search as flat dicts: ``pandas.DataFrame(result)`` is a table of them.

    Keys: trial (from 1 in each stage), stage, trials (of the stage), epochs (the budget), epoch (how many it was
    trained), rung (of successive halving), seed, status ("finished", "diverged" or "stopped"), val_accuracy, val_loss,
    accuracy and loss (of the best epoch; None if it has none), seconds, and the hyperparameters of the space.

    Attributes:
        stages: in order; the space of a later one may be narrower.
        warnings: what a person should know, such as a range to be moved.
        winner: the best trial as a network, see `Winner`; None if the search has not ended.

    >>> row = {"trial": 1, "stage": 1, "trials": 1, "status": "finished", "val_accuracy": 0.9, "val_loss": 0.3}
    >>> SearchResult([row]).best["val_accuracy"]
    0.9
    """

    def __init__(
        self,
        rows: Iterable[Row] = (),
        stages: Iterable[Stage] = (),
        warnings: Iterable[str] = (),
        winner: Winner | None = None,
    ) -> None:
        self.rows = list(rows)
        self.stages = list(stages)
        self.warnings = list(warnings)
        self.winner = winner

    @property
    def best(self) -> Row:
        """The trial with the best validation accuracy.

        Raises:
            OptionError: no trial has a score.
        """
        return self.top(1)[0]

    def top(self, count: int = SHOWN, stage: int | None = None) -> list[Row]:
        """The best trials, the very best first.

        Args:
            count: at most so many.
            stage: of this stage alone.

        Raises:
            OptionError: no trial has a score.
        """
        found = ranked([row for row in self.rows if stage in (None, row["stage"])])
        if not found:
            raise OptionError(f"none of these {len(self.rows)} trials has a score: all diverged, or none was made")
        return found[:count]

    @property
    def space(self) -> Space:
        """The space that was searched: that of the first stage."""
        return self.stages[0].space

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> SearchResult: ...
    def __getitem__(self, index: int | slice) -> Row | SearchResult:
        if isinstance(index, slice):
            return SearchResult(self.rows[index], self.stages, self.warnings, self.winner)
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"SearchResult({len(self.rows)} trials)"

    def __str__(self) -> str:
        """The ranges and the best trials of each stage, the warnings, and the winner."""
        lines = []
        for stage in self.stages:
            rows = [row for row in self.rows if row["stage"] == stage.number]
            lost = sum(row["status"] == "diverged" for row in rows)
            lines.append(
                f"stage {stage.number}: {len(rows)} of {stage.trials} trials, {stage.epochs} epochs"
                + (f"; {lost} diverged" if lost else "")
            )
            lines += [f"  {name}: {describe(stage.space[name])}" for name in stage.space.free]
            lines += [f"  {trial_line(row, stage.space)}" for row in ranked(rows)[:SHOWN]]
        lines += [f"warning: {warning}" for warning in self.warnings]
        if self.winner is not None:
            lines.append(f"winner: {point_text(self.winner.row, self.space)}{self.winner.summary()}")
        elif scored(self.rows):
            lines.append(f"best so far: {trial_line(self.best, self.space)}")
        return "\n".join(lines)


def read(path: Path | str) -> SearchResult:
    """What a search has left in a folder so far, also while it runs.

    Raises:
        RunError: no search there, one of another format, or a broken file.

    >>> from tinygrad_cr.data import load, split
    >>> from tinygrad_cr.search import random_search
    >>> parts = split(load("digits"), seed=0)
    >>> options = {"trials": 2, "epochs": 1, "reporter": False}
    >>> result = random_search(*parts[:2], {"hidden": 10}, out="read-later", **options)
    >>> read("read-later").rows == result.rows
    True
    """
    from tinygrad_cr.search.winner import load_winner

    folder = Path(path)
    state = ledger.read_state(folder)
    stages = stages_from(state)
    return SearchResult(
        final_rows(ledger.read_rows(folder), state["settings"].get("halving") is not None),
        stages,
        state["warnings"],
        load_winner(folder, state["winner"]),
    )


def stages_from(state: Row) -> list[Stage]:
    """The stages in `search.json`."""
    return [Stage(**each | {"space": Space.from_dict(each["space"])}) for each in state["stages"]]


def final_rows(rows: Iterable[Row], halving: bool) -> list[Row]:
    """One row a trial, in order: that of the last rung it came to; a trial that had to leave there was stopped."""
    last: dict[tuple[int, int], Row] = {}
    for row in rows:
        key = row["stage"], row["trial"]
        if key not in last or row.get("rung", 0) > last[key].get("rung", 0):
            last[key] = row
    ordered = [last[key] for key in sorted(last)]
    if not halving:
        return ordered
    return [
        row | {"status": "stopped"} if row["status"] == "finished" and row["epoch"] < row["epochs"] else row
        for row in ordered
    ]
