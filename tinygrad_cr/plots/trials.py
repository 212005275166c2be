"""The trials of a search in the plane of two hyperparameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygrad_cr.plots.canvas import BLACK, GREY, SMALL, VERMILLION, canvas, list_below, name_axes, small
from tinygrad_cr.plots.scales import Row, Scale, best, checked, chosen, scored, shades

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

ACCURACY = "validation accuracy"
COLOURS = "cividis"
"""From dark to light in one direction, and the same to people with any kind of colour vision."""

MARKERS, STYLES = "osDP^", (":", "--", "-", "-.")
"""Of the stages: their trials, and the edges of their ranges."""

BEST: dict[str, Any] = {"markerfacecolor": "none", "markeredgecolor": VERMILLION, "markeredgewidth": 1.4}
"""How the star of the best trial looks; its shade is seen through it."""

TICKS = 5
"""On the scale of shades."""

LEGIBLE = 5
"""So many stages have a marker of their own; those after share the last."""


def trials(
    rows: Sequence[Row], x: str | None = None, y: str | None = None, *, stages: Any = None, ax: Axes | None = None
) -> Axes:
    """Each trial of a search where two of its hyperparameters put it; the lighter, the better.

    Trials that diverged are crosses, the best one is a star. Each stage has a marker, and a frame around the range that
    it searched.

    Args:
        rows: a `SearchResult`, or its rows: dicts with "val_accuracy", "status", "stage" and the hyperparameters.
        x, y: names of hyperparameters; left out, lr and reg if they differ between trials, else the first that do. If
            only one does, the accuracy itself is the vertical axis.
        stages: what each stage searched: objects with a `space`, as `SearchResult.stages` has them, which are taken
            if nothing is given. An axis is logarithmic where the first stage's range is.
        ax: where to draw.

    Raises:
        OptionError: a hyperparameter that the trials do not have.
        DataError: no trials, or rows that are none.
        ExtraError: matplotlib is not installed.

    >>> rows = [{"lr": 1e-5, "reg": 1e-3, "val_accuracy": 0.3}, {"lr": 1e-2, "reg": 1.0, "val_accuracy": 0.4}]
    >>> ax = trials(rows)
    >>> ax.get_xscale(), ax.get_xlabel(), ax.get_ylabel()
    ('log', 'learning rate', 'regularisation')
    """
    found = checked(rows)
    spaces = [stage.space for stage in (getattr(rows, "stages", ()) if stages is None else stages)]
    names = chosen(found, [x, y])
    across, *other = [Scale(name, found, spaces) for name in names]
    down = other[0] if other else None
    grow, ax = ax is None, canvas(ax)
    across.frame(ax, "x")
    if down is not None:
        down.frame(ax, "y")
    good, bad = [row for row in found if scored(row)], [row for row in found if not scored(row)]
    handles: list[Artist] = []
    if good:
        image = _points(ax, good, across, down)
        handles.append(_star(ax, good, across, down))
        if down is not None and len({row["val_accuracy"] for row in good}) > 1:
            scale_of_shades(ax, image)
    handles += _stages(ax, found, across, down, spaces)
    if bad:
        handles.append(_crosses(ax, bad, across, down))
    name_axes(ax, across.title, ACCURACY if down is None else down.title)
    list_below(ax, handles, [str(handle.get_label()) for handle in handles], grow=grow)
    return ax


def scale_of_shades(ax: Axes, image: Any) -> None:
    """What the shades of these points mean, beside the picture."""
    # At even distances along the bar, whatever the values there are: round ones would crowd at one end.
    ticks = image.norm.inverse(np.linspace(0, 1, TICKS))
    digits = 2 if ticks[-1] - ticks[0] > 0.1 else 3
    bar = ax.figure.colorbar(image, ax=ax)
    bar.minorticks_off()
    size = small(ax)
    bar.set_ticks(ticks, labels=[f"{tick:.{digits}f}" for tick in ticks], fontsize=size)
    bar.set_label(ACCURACY, fontsize=size)


def _heights(rows: Sequence[Row], down: Scale | None) -> Any:
    return np.array([row["val_accuracy"] for row in rows]) if down is None else down.places(rows)


def _points(ax: Axes, rows: Sequence[Row], across: Scale, down: Scale | None) -> Any:
    """The trials that have an accuracy, a marker a stage; something that a scale of shades can be made of."""
    norm = shades(rows)
    for number in sorted({stage_of(row) for row in rows}):
        part = [row for row in rows if stage_of(row) == number]
        image = ax.scatter(
            across.places(part),
            _heights(part, down),
            c=[row["val_accuracy"] for row in part],
            cmap=COLOURS,
            norm=norm,
            marker=MARKERS[min(number, LEGIBLE) - 1],
            s=(small(ax) - 2.5) ** 2,
            edgecolors="0.25",
            linewidths=0.5,
            zorder=3,
        )
    return image


def _star(ax: Axes, rows: Sequence[Row], across: Scale, down: Scale | None) -> Artist:
    top = rows[best(rows)]
    size = small(ax)
    letters = 7 if size < SMALL else 16
    where = ", ".join(scale.text(top, letters) for scale in (across, down) if scale is not None)
    star, *_ = ax.plot(
        across.places([top]),
        _heights([top], down),
        "*",
        markersize=2 * size,
        zorder=5,
        label=f"best {top['val_accuracy']:.4f}: {where}",
        **BEST,
    )
    return star


def _crosses(ax: Axes, rows: Sequence[Row], across: Scale, down: Scale | None) -> Artist:
    """Trials that have no accuracy; where that is the vertical axis, they stand on its lower edge."""
    size = small(ax) - 3
    name = f"diverged ({len(rows)})"
    if down is None:
        edge = ax.get_xaxis_transform()
        crosses, *_ = ax.plot(
            across.places(rows), [0.02] * len(rows), "x", color=BLACK, markersize=size, transform=edge, label=name
        )
    else:
        crosses, *_ = ax.plot(
            across.places(rows), down.places(rows), "x", color=BLACK, markersize=size, zorder=2, label=name
        )
    return crosses


def _stages(ax: Axes, rows: Sequence[Row], across: Scale, down: Scale | None, spaces: Sequence[Any]) -> list[Artist]:
    """The range of each stage, and what shows its trials."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle

    handles: list[Artist] = []
    many = max(len(spaces), *map(stage_of, rows)) > 1
    for number in range(1, max(len(spaces), *map(stage_of, rows)) + 1):
        style = STYLES[min(number, len(STYLES)) - 1]
        if number <= len(spaces):
            (left, right), (low, high) = across.span(number - 1), (0.0, 1.0) if down is None else down.span(number - 1)
            frame = Rectangle((left, low), right - left, high - low, fill=False, edgecolor=GREY, linestyle=style)
            frame.set(linewidth=1.3, zorder=1)
            if down is None:
                frame.set_transform(ax.get_xaxis_transform())
            ax.add_patch(frame)
        if many or spaces:
            name = f"stage {number}" if many else "trials"
            if number <= len(spaces):
                name += " and its range" if many else " and their range"
            look: dict[str, Any] = {"markerfacecolor": "0.8", "markeredgecolor": "0.25", "color": GREY}
            look["linestyle"] = style if number <= len(spaces) else "none"
            look["marker"] = MARKERS[min(number, LEGIBLE) - 1]
            handles.append(Line2D([], [], markersize=small(ax) - 2.5, label=name, **look))
    return handles


def stage_of(row: Row) -> int:
    """The number of its stage; 1 if it says nothing."""
    stage = row.get("stage")
    return stage if isinstance(stage, int) and stage > 0 else 1
