"""`History`: what was observed, a flat record an epoch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, overload

from tinygrad_cr.errors import OptionError, unknown_name

Row = dict[str, Any]


@dataclass(frozen=True)
class Event:
    """Something that happened in a run and that its owner should know.

    Attributes:
        level: "note" (worth knowing), "warn" (probably not what you want) or "fail" (this run is lost).
        kind: what it is, in one word: "explosion", "overfitting", "early_stopping", ...
        epoch, step: when, both from 1.
        value: the number that it was seen by; None if there is none.
        message: a sentence that states the number, the epoch and what to do.
        stop: whether training ends here.
        member: of a population, the member that it happened to, and whose training ends; None for all.
    """

    level: str
    kind: str
    epoch: int
    step: int
    value: float | None
    message: str
    stop: bool = False
    member: int | None = None

    def row(self) -> Row:
        """As a flat dict, the way rows of a history are; "member" is a key of populations alone.

        >>> Event("note", "learned", 3, 12, 1.0, "knows its data by heart").row()["kind"]
        'learned'
        """
        row = asdict(self)
        if self.member is None:
            del row["member"]
        return row


class History(Sequence[Row]):
    """The epochs of a run as flat dicts: ``pandas.DataFrame(history)`` is a table of them.

    Keys: epoch (from 1), step (updates so far), loss (mean cost over the epoch, penalty included), accuracy (on a
    sample of the training part), val_loss, val_accuracy (None without a validation part), lr, seconds since training
    began, and "update_ratio.NAME" for each parameter: norm of its last update over its own norm.

    Where validation was asked for every so many steps, a row is added at each; its epoch is the one in progress, its
    loss the mean cost since the row before it. A population has a row for each member and epoch, with the key member.

    `events` holds what the callbacks saw, in order; `stopped` is the message of the event that ended the run early.

    >>> history = History([{"epoch": 1, "loss": 2.3}, {"epoch": 2, "loss": 1.9}])
    >>> history.column("loss")
    [2.3, 1.9]
    """

    def __init__(self, rows: Iterable[Row] = (), events: Iterable[Event] = ()) -> None:
        self.rows = list(rows)
        self.events = list(events)

    @property
    def stopped(self) -> str | None:
        """Why training ended before its last epoch; None if it did not, or only for some members of a population."""
        return next((event.message for event in self.events if event.stop and event.member is None), None)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> History: ...
    def __getitem__(self, index: int | slice) -> Row | History:
        return History(self.rows[index], self.events) if isinstance(index, slice) else self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    def append(self, row: Row) -> None:
        """Add the record of an epoch."""
        self.rows.append(row)

    def column(self, key: str) -> list[Any]:
        """One observation over all epochs.

        Raises:
            OptionError: an observation that was not made (the nearest name is given).
        """
        if self.rows and key not in self.rows[0]:
            raise unknown_name("observation", key, self.rows[0])
        return [row[key] for row in self.rows]

    def best(self, key: str = "val_accuracy") -> Row:
        """The first epoch with the highest value of an observation.

        Raises:
            OptionError: no epoch has it.
        """
        rows = [row for row in self.rows if row.get(key) is not None]
        if not rows:
            raise OptionError(f"no epoch of this history has {key}")
        return max(rows, key=lambda row: row[key])

    def to_jsonl(self) -> str:
        """One JSON object a line; JSON has no inf and NaN, so they become null."""
        return _lines(self.rows)

    def events_to_jsonl(self) -> str:
        """The events, one JSON object a line."""
        return _lines(event.row() for event in self.events)

    @classmethod
    def from_jsonl(cls, rows: str, events: str = "") -> History:
        """The inverse of `to_jsonl` and `events_to_jsonl`."""
        return cls(_parsed(rows), (Event(**row) for row in _parsed(events)))

    def __repr__(self) -> str:
        return f"History({len(self.rows)} epochs)"


def _lines(rows: Iterable[Row]) -> str:
    return "".join(json.dumps(_finite(row), allow_nan=False) + "\n" for row in rows)


def _parsed(lines: str) -> Iterable[Row]:
    return (json.loads(line) for line in lines.splitlines() if line.strip())


def _finite(row: Row) -> Row:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
