"""Grid search beside random search: the same number of trials, and how many values of each parameter they tried."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygrad_cr.errors import DataError
from tinygrad_cr.plots.canvas import BLACK, NARROW, SMALL, WIDTH_OF_A_LETTER, canvas, plain, points, size_in
from tinygrad_cr.plots.scales import Row, Scale, best, checked, chosen, label, scored, shades
from tinygrad_cr.plots.trials import BEST, COLOURS
from tinygrad_cr.search.importance import single

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LETTERS = 5
"""Of the name of a choice: there is room for no more."""

STRIP = 0.28
"""Of a panel's width and height, for what its trials come to along one parameter."""


def grid_versus_random(
    grid: Sequence[Row],
    random: Sequence[Row],
    x: str | None = None,
    y: str | None = None,
    *,
    space: Any = None,
    ax: Axes | None = None,
) -> Axes:
    """The trials of a grid search and of a random search side by side, after Bergstra and Bengio (2012).

    Above each plane stands the validation accuracy over the first parameter, at its right that over the second. A grid
    of 9 tries 3 values of each, and the other trials repeat them; 9 random trials try 9. So random search does better
    where one parameter matters much more than the other.

    Args:
        grid, random: two results of the same space, best with the same number of trials.
        x, y: names of two hyperparameters; left out, lr and reg if they differ between trials, else the first that do.
        space: what was searched, by name; left out, that of the first stage of `random`, if it has stages. An axis is
            logarithmic where its range is.
        ax: where to draw; the panels stand inside.

    Raises:
        OptionError: a hyperparameter that the trials do not have.
        DataError: no trials, rows that are none, none with an accuracy, or fewer than two hyperparameters.
        ExtraError: matplotlib is not installed.

    >>> grid = [{"lr": lr, "reg": reg, "val_accuracy": lr} for lr in (0.1, 0.2) for reg in (1.0, 2.0)]
    >>> random = [{"lr": i / 10, "reg": i / 7, "val_accuracy": i / 10} for i in range(1, 5)]
    >>> ax = grid_versus_random(grid, random)
    >>> [strip.get_title(loc="left").splitlines()[1] for strip in ax.child_axes[::3]]
    ['2 values of lr, 2 of reg', '4 values of lr, 4 of reg']
    """
    both = checked(grid), checked(random)
    rows = [*both[0], *both[1]]
    names = chosen(rows, [x, y])
    if len(names) < 2:
        raise DataError("grid against random wants trials in which two hyperparameters differ")
    if not any(map(scored, rows)):
        raise DataError("no trial has a validation accuracy: all of them diverged")
    if space is None:
        stages = getattr(random, "stages", None) or getattr(grid, "stages", None) or []
        spaces = [stages[0].space] if stages else []
    else:
        spaces = [space]
    scales = Scale(names[0], rows, spaces), Scale(names[1], rows, spaces)
    own = ax is None
    ax = canvas(ax, bare=own, size=(6, 3.5))
    ax.set_axis_off()
    _panels(ax, both, scales)
    return ax


def _panels(ax: Axes, both: tuple[list[Row], list[Row]], scales: tuple[Scale, Scale]) -> None:
    width, height = points(ax)
    size, narrow = size_in(width), width < NARROW
    # In points: room for ticks, names and titles. The rest is for two planes and their strips.
    left, below, above, between = 5.5 * size, 3.6 * size, (4.2 if narrow else 3.2) * size, 1.8 * size
    across, down = (width - left - between) / 2 / width, (height - below - above) / height
    bottom = below / height
    norm = shades([*both[0], *both[1]])
    for i, (rows, name) in enumerate(zip(both, ("grid", "random"), strict=True)):
        start = left / width + i * (across + between / width)
        top = ax.inset_axes((start, bottom + down * (1 - STRIP), across * (1 - STRIP), down * STRIP))
        plane = ax.inset_axes((start, bottom, across * (1 - STRIP), down * (1 - STRIP)))
        side = ax.inset_axes((start + across * (1 - STRIP), bottom, across * STRIP, down * (1 - STRIP)))
        _draw((top, plane, side), rows, scales, norm, size)
        top.set_title(_title(name, rows, scales, narrow), fontsize=size, loc="left", linespacing=1.3)
        letters = int(width * across * (1 - STRIP) / WIDTH_OF_A_LETTER / size)
        plane.set_xlabel(plain(scales[0].title, letters), fontsize=size)
        if not narrow:
            side.set_xlabel("accuracy", fontsize=size)
        if i == 0:
            plane.set_ylabel(scales[1].title, fontsize=size)
            top.set_ylabel("acc." if narrow else "accuracy", fontsize=size)
        else:
            plane.tick_params(axis="y", which="both", labelleft=False)
            top.tick_params(axis="y", labelleft=False)


def _draw(
    panels: tuple[Axes, Axes, Axes], rows: list[Row], scales: tuple[Scale, Scale], norm: Any, size: float
) -> None:
    """The trials in the plane of both parameters, and their accuracy over each of them."""
    top, plane, side = panels
    good, bad = [row for row in rows if scored(row)], [row for row in rows if not scored(row)]
    x, y = scales[0].places(good), scales[1].places(good)
    accuracy = np.array([row["val_accuracy"] for row in good])
    style: dict[str, Any] = {"c": accuracy, "cmap": COLOURS, "norm": norm, "edgecolors": "0.25", "linewidths": 0.5}
    top_row = best(good) if good else 0
    for panel, places in ((plane, (x, y)), (top, (x, accuracy)), (side, (accuracy, y))):
        panel.scatter(places[0], places[1], s=(size - (2.5 if panel is plane else 4)) ** 2, zorder=3, **style)
        if good:
            panel.plot(*(each[top_row] for each in places), "*", markersize=1.7 * size, zorder=5, **BEST)
    plane.plot(scales[0].places(bad), scales[1].places(bad), "x", color=BLACK, markersize=size - 4, zorder=2)
    for panel, scale, which in ((plane, 0, "x"), (plane, 1, "y"), (top, 0, "x"), (side, 1, "y")):
        scales[scale].frame(panel, which, letters=LETTERS)
    margin = 0.15 * (norm.vmax - norm.vmin)
    top.set_ylim(norm.vmin - margin, norm.vmax + margin)
    side.set_xlim(norm.vmin - margin, norm.vmax + margin)
    for panel in panels:
        panel.tick_params(labelsize=size - 1)
    top.tick_params(axis="x", which="both", bottom=False, labelbottom=False)
    side.tick_params(axis="y", which="both", left=False, labelleft=False)
    top.set_yticks(_inner(top.get_ylim(), 3))
    # Where it is narrow, numbers would touch: the strip above has the same scale.
    side.set_xticks(_inner(side.get_xlim(), 2) if size == SMALL else [])
    for panel in (top, side):
        panel.grid(axis="y" if panel is top else "x", color="0.9", zorder=0)
        panel.spines[["top", "right"]].set_visible(False)


def _inner(limits: tuple[float, float], many: int) -> list[float]:
    """Round values that stand well inside an axis: at its low end they would touch those of the plane beside it."""
    from matplotlib.ticker import MaxNLocator

    low, high = limits
    ticks = MaxNLocator(many).tick_values(low, high)
    return [float(tick) for tick in ticks if 0.3 <= (tick - low) / (high - low) <= 1]


def _title(name: str, rows: list[Row], scales: tuple[Scale, Scale], narrow: bool) -> str:
    good = [row for row in rows if scored(row)]
    found = f"best {good[best(good)]['val_accuracy']:.4f}" if good else "all diverged"
    many = [len({label(single(row.get(scale.name))) for row in rows}) for scale in scales]
    if narrow:
        return f"{name}: {len(rows)} trials\n{found}\n{many[0]} × {many[1]} values"
    names = [plain(scale.name, 12) for scale in scales]
    return f"{name}: {len(rows)} trials, {found}\n{many[0]} values of {names[0]}, {many[1]} of {names[1]}"
