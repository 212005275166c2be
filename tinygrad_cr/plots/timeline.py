"""`Timeline`: where the rows and events of a history stand on an axis of epochs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from tinygrad_cr.errors import DataError, OptionError

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Timeline:
    """Rows by their position in epochs: 2.0 is the end of the second epoch, 2.5 the middle of the third.

    Raises:
        OptionError: no sequence of rows.
        DataError: a row that is no dict with an epoch.

    >>> rows = [{"epoch": 1, "step": 5, "loss": 2.3}, {"epoch": 1, "step": 10, "loss": 1.9}]
    >>> Timeline(rows).series("loss")
    ([0.5, 1.0], [2.3, 1.9])
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Iterable):
            raise OptionError(
                f"a picture over epochs wants rows, such as the History that Trainer.fit returns; got {rows!r}"
            )
        self.rows = list(rows)
        for i, row in enumerate(self.rows):
            if not isinstance(row, Mapping) or not isinstance(row.get("epoch"), int | float):
                raise DataError(f"row {i} has no epoch: a row is a dict with epoch, step and what was observed")
        # Only the last step of an epoch reaches the number of steps in one; no row lies beyond it.
        steps = [row["step"] / row["epoch"] for row in self.rows if row.get("step") and row["epoch"] > 0]
        self.steps_per_epoch = max(steps, default=None)

    def at(self, epoch: float, step: float | None) -> float:
        """The position of a step; without one, or with nothing to compare it with, that of its epoch's end."""
        if not step or not self.steps_per_epoch:
            return float(epoch)
        return float(min(max(step / self.steps_per_epoch, epoch - 1), epoch))

    def series(self, key: str) -> tuple[list[float], list[float]]:
        """Positions and values of what was observed; rows where it was not, or was infinite, are left out."""
        found = [
            (self.at(row["epoch"], row.get("step")), float(row[key]))
            for row in self.rows
            if isinstance(row.get(key), int | float) and math.isfinite(row[key])
        ]
        return [x for x, _ in found], [y for _, y in found]

    def frame(self, ax: Axes, also: Iterable[float] = ()) -> None:
        """An axis of epochs that holds every row, and these positions too."""
        from matplotlib.ticker import MaxNLocator

        places = [self.at(row["epoch"], row.get("step")) for row in self.rows] + list(also) or [1.0]
        low, high = min(places), max(places)
        # A single epoch still gets an axis with room on both sides.
        margin = 0.04 * (high - low) or 0.5
        ax.set_xlim(low - margin, high + margin)
        ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
