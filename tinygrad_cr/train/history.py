"""`History`: what was observed, a flat record an epoch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any, overload

from tinygrad_cr.errors import OptionError, unknown_name

Row = dict[str, Any]


class History(Sequence[Row]):
    """The epochs of a run as flat dicts: ``pandas.DataFrame(history)`` is a table of them.

    Keys: epoch (from 1), step (updates so far), loss (mean cost over the epoch, penalty included), accuracy (on a
    sample of the training part), val_loss, val_accuracy (None without a validation part), lr, seconds since training
    began, and "update_ratio.NAME" for each parameter: norm of its last update over its own norm.

    >>> history = History([{"epoch": 1, "loss": 2.3}, {"epoch": 2, "loss": 1.9}])
    >>> history.column("loss")
    [2.3, 1.9]
    """

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self.rows = list(rows)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> History: ...
    def __getitem__(self, index: int | slice) -> Row | History:
        return History(self.rows[index]) if isinstance(index, slice) else self.rows[index]

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
        return "".join(json.dumps(_finite(row), allow_nan=False) + "\n" for row in self.rows)

    @classmethod
    def from_jsonl(cls, text: str) -> History:
        """The inverse of `to_jsonl`."""
        return cls(json.loads(line) for line in text.splitlines() if line.strip())

    def __repr__(self) -> str:
        return f"History({len(self.rows)} epochs)"


def _finite(row: Row) -> Row:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
