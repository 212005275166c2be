"""`Comparison`: a row for each way to get more out of one network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

from tinygrad_cr.ensemble.ensemble import Ensemble
from tinygrad_cr.errors import unknown_name

if TYPE_CHECKING:
    from rich.table import Table

Row = dict[str, Any]
COLUMNS = ("method", "members", "accuracy", "log loss", "ECE", "training time")


class Comparison(Sequence[Row]):
    """One row for each method; ``print(comparison)`` shows a table, and so does rich.

    Keys of a row: method, members (answers that are averaged), accuracy, log_loss (in nats), ece (15 bins),
    relative_time (of training, as a multiple of the single model's), seconds. ``comparison["snapshot ensemble"]`` is
    one row; ``pandas.DataFrame(comparison)`` works.

    Attributes:
        ensembles: what was trained, by method.

    >>> row = {"method": "single model", "members": 1, "accuracy": 0.5, "log_loss": 1.0, "ece": 0.1,
    ...        "relative_time": 1.0, "seconds": 2.0}
    >>> print(Comparison([row], {}))
    method        members  accuracy  log loss     ECE  training time
    single model        1    0.5000    1.0000  0.1000           1.00
    """

    def __init__(self, rows: Sequence[Row], ensembles: Mapping[str, Ensemble]) -> None:
        self.rows = list(rows)
        self.ensembles = dict(ensembles)

    @overload
    def __getitem__(self, key: int | str) -> Row: ...
    @overload
    def __getitem__(self, key: slice) -> list[Row]: ...
    def __getitem__(self, key: int | str | slice) -> Row | list[Row]:
        """A row by position or by method; `OptionError` names the nearest method if there is none of that name."""
        if not isinstance(key, str):
            return self.rows[key]
        for row in self.rows:
            if row["method"] == key:
                return row
        raise unknown_name("method", key, [row["method"] for row in self.rows])

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __str__(self) -> str:
        cells = [COLUMNS, *map(_cells, self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = []
        for first, *others in cells:
            numbers = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
            lines.append("  ".join([first.ljust(widths[0]), *numbers]))
        return "\n".join(lines)

    def __rich__(self) -> Table:
        from rich.table import Table

        table = Table(COLUMNS[0])
        for column in COLUMNS[1:]:
            table.add_column(column, justify="right")
        for row in self.rows:
            table.add_row(*_cells(row))
        return table


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row["method"],
        str(row["members"]),
        f"{row['accuracy']:.4f}",
        f"{row['log_loss']:.4f}",
        f"{row['ece']:.4f}",
        f"{row['relative_time']:.2f}",
    )
