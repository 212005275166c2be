"""The axis of a hyperparameter: logarithmic, linear or a list of choices, with the ranges it was searched in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygrad_cr.errors import DataError, unknown_name
from tinygrad_cr.plots.canvas import WIDTH_OF_A_LETTER, plain, points, size_in
from tinygrad_cr.search.importance import COLUMNS, parameters, single
from tinygrad_cr.search.spaces import LogUniform
from tinygrad_cr.search.trial import ranked

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DECADES = 2
"""Positive numbers that span so many get a logarithmic axis if no space says which they want."""

LETTERS = 12
"""Longer names of choices are cut."""

JITTER, GOLDEN = 0.5, (5**0.5 - 1) / 2
"""Trials of one choice stand in so broad a strip; multiples of the golden section spread evenly in it."""

CHOICES = 12
"""Of more choices, only some are named."""

STRETCH = 4
"""The power of the accuracy, from the worst one to the best, that a shade stands for."""

NAMES = {
    "lr": "learning rate",
    "reg": "regularisation",
    "lr_decay": "learning-rate decay",
    "batch_size": "batch size",
    "hidden": "hidden widths",
    "init": "initialisation",
}
"""What the axes call hyperparameters whose own names are short."""

Row = Mapping[str, Any]
Array = np.ndarray[Any, Any]


class Scale:
    """Where the values of one hyperparameter stand on an axis.

    Args:
        name: of the parameter.
        rows: trials.
        spaces: of the stages: what was searched for each parameter, by name.

    Raises:
        OptionError: a name that the trials do not have.

    >>> scale = Scale("lr", [{"lr": 1e-4}, {"lr": 1e-1}])
    >>> scale.kind, scale.places([{"lr": 1e-2}]).tolist()
    ('log', [0.01])
    """

    def __init__(self, name: str, rows: Sequence[Row], spaces: Sequence[Mapping[str, Any]] = ()) -> None:
        known = dict.fromkeys(key for row in rows for key in row if key not in COLUMNS)
        if name not in known:
            raise unknown_name("hyperparameter", name, known)
        self.name = name
        values = [single(row.get(name)) for row in rows]
        searched: list[Any] = [space.get(name) for space in spaces]
        self.ranges = [(float(each.low), float(each.high)) if hasattr(each, "low") else None for each in searched]
        self.labels: list[str] = []
        if not all(map(is_number, values)):
            self.kind = "choice"
            self.labels = list(dict.fromkeys(map(label, values)))
            return
        ranges = [each for each in searched if hasattr(each, "low")]
        ends = [end for found in self.ranges if found for end in found]
        self.low, self.high = min([*values, *ends]), max([*values, *ends])
        wanted = isinstance(ranges[0], LogUniform) if ranges else self.high > 10**DECADES * self.low
        self.kind = "log" if wanted and self.low > 0 else "linear"

    def places(self, rows: Sequence[Row]) -> Array:
        """The positions of these trials, [n]."""
        values = [single(row.get(self.name)) for row in rows]
        if self.kind == "choice":
            # Beside each other, or trials of one choice would cover each other.
            offsets = [JITTER * ((GOLDEN * stable(row)) % 1 - 0.5) for row in rows]
            return np.array([self.labels.index(label(v)) + off for v, off in zip(values, offsets, strict=True)])
        return np.array(values, np.float64)

    def span(self, stage: int) -> tuple[float, float]:
        """The range that a stage searched, from 0; the whole axis where it was none."""
        found = self.ranges[stage]
        return self.limits() if found is None or self.kind == "choice" else found

    def limits(self) -> tuple[float, float]:
        """The ends of the axis, with a little room."""
        if self.kind == "choice":
            return -0.5, len(self.labels) - 0.5
        if self.kind == "log":
            ratio = (self.high / self.low) ** 0.06 if self.high > self.low else 3.0
            return self.low / ratio, self.high * ratio
        margin = 0.06 * (self.high - self.low) or 0.1 * abs(self.low) or 1.0
        return self.low - margin, self.high + margin

    def frame(self, ax: Axes, which: str, letters: int = LETTERS) -> None:
        """Make it the "x" or the "y" axis of these Axes; it is not named yet. letters: of a choice's name, at most."""
        axis = ax.xaxis if which == "x" else ax.yaxis
        set_limits = ax.set_xlim if which == "x" else ax.set_ylim
        width, height = points(ax, settled=False)
        ticks = max(2, min(8, int(width / 32 if which == "x" else height / 18)))
        if self.kind == "choice":
            places = range(0, len(self.labels), max(1, -(-len(self.labels) // CHOICES)))
            names = [plain(self.labels[i], letters) for i in places]
            axis.set_ticks(places, names)
            room = 0.8 * width / len(places)
            if which == "x" and max(map(len, names)) * WIDTH_OF_A_LETTER * (size_in(width) + 2) > room:
                ax.tick_params(axis="x", rotation=90)
        elif self.kind == "log":
            from matplotlib.ticker import LogLocator, NullFormatter

            (ax.set_xscale if which == "x" else ax.set_yscale)("log")
            axis.set_major_locator(LogLocator(numticks=ticks))
            if math.log10(self.high / self.low) >= 1:
                axis.set_minor_formatter(NullFormatter())
        else:
            from matplotlib.ticker import MaxNLocator

            axis.set_major_locator(MaxNLocator(ticks))
        set_limits(*self.limits())

    @property
    def title(self) -> str:
        """How the axis is called."""
        return NAMES.get(self.name, plain(self.name.replace("_", " "), 24))

    def text(self, row: Row, letters: int = 16) -> str:
        """The parameter of a trial in a few letters.

        >>> Scale("lr", [{"lr": 1e-4}]).text({"lr": 0.00123})
        'lr 0.00123'
        """
        value = single(row.get(self.name))
        return f"{plain(self.name, letters)} {f'{value:.3g}' if is_number(value) else plain(label(value), letters)}"


def chosen(rows: Sequence[Row], names: Sequence[str | None]) -> list[str]:
    """The parameters for so many axes: those given, and for None the first ones that differ, lr and reg before others.

    There may be fewer than were asked for.

    >>> chosen([{"reg": 1, "lr": 0.1}, {"reg": 2, "lr": 0.2}], [None, None])
    ['lr', 'reg']
    """
    there = dict.fromkeys(key for row in rows for key in row if key not in COLUMNS)
    differing = parameters(rows)
    order = [name for name in ("lr", "reg") if name in differing] + differing + ["lr", "reg", *there]
    free = iter([name for name in dict.fromkeys(order) if name in there and name not in names])
    found = [next(free, None) if name is None else name for name in names]
    return [name for name in found if name is not None]


def checked(rows: Any) -> list[Row]:
    """The trials of a search as a list.

    Raises:
        DataError: none, or a row that is none.
    """
    if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Sequence):
        raise DataError(f"a picture of a search wants its trials, such as a SearchResult; got {rows!r:.80}")
    if not rows:
        raise DataError("there are no trials to draw: the search has not finished one yet")
    for i, row in enumerate(rows):
        if not isinstance(row, Mapping) or "val_accuracy" not in row:
            raise DataError(f"row {i} is no trial: it wants val_accuracy and the hyperparameters, got {row!r:.80}")
    return list(rows)


def shades(rows: Sequence[Row]) -> Any:
    """From accuracies to shades. It gives the better half more of them: there the differences matter."""
    from matplotlib.colors import PowerNorm

    found = [row["val_accuracy"] for row in rows if scored(row)]
    low, high = min(found), max(found)
    return PowerNorm(STRETCH, low, high if high > low else low + 0.01)


def scored(row: Row) -> bool:
    """Whether the trial has an accuracy that can be drawn."""
    value: Any = row.get("val_accuracy")
    return row.get("status") != "diverged" and is_number(value) and math.isfinite(float(value))


def best(rows: Sequence[Row]) -> int:
    """The index of the best of these trials, all of which are `scored`: the one that the search itself calls best.

    What a row does not say counts as the worst; without a number, trials count in the order in which they stand here.

    >>> best([{"val_accuracy": 0.5, "val_loss": 1.0}, {"val_accuracy": 0.5, "val_loss": 0.9}])
    1
    """

    def known(row: Row, key: str, other: Any) -> Any:
        return row[key] if is_number(row.get(key)) and not math.isnan(row[key]) else other

    others = {"val_accuracy": -math.inf, "val_loss": math.inf, "rung": 0, "stage": 1}
    whole: list[dict[str, Any]] = [
        {key: known(row, key, other) for key, other in others.items()}
        | {"trial": known(row, "trial", i), "status": "finished", "at": i}
        for i, row in enumerate(rows)
    ]
    return int(ranked(whole)[0]["at"])


def stable(row: Row) -> int:
    """A number of a trial that does not depend on which others are drawn."""
    return int(row.get("trial") or 0) + 7 * int(row.get("stage") or 0)


def is_number(value: Any) -> bool:
    """Whether a value stands on an axis of numbers."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def label(value: Any) -> str:
    """A choice in words.

    >>> label([100, 50]), label("adam"), label([])
    ('100-50', 'adam', 'none')
    """
    if isinstance(value, list | tuple):
        return "-".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
