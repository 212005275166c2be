"""Loss and accuracy over epochs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygrad_cr.errors import unknown_name
from tinygrad_cr.plots.canvas import BLUE, GREY, VERMILLION, canvas, lists_below, name_axes, say, small
from tinygrad_cr.plots.events import EventList
from tinygrad_cr.plots.timeline import Timeline
from tinygrad_cr.train.history import History, Row

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

LABELS = {"loss": "loss (nats)", "accuracy": "accuracy (fraction right)"}
EXPLODED = 20
"""A loss that grows to so many times its first value gets a logarithmic axis: else all before it is a flat line."""

MARKS = 14
"""So many markers on a line tell it from the other; more would hide it."""

Series = tuple[list[float], list[float]]


def curves(history: History | Sequence[Row], key: str = "loss", *, ax: Axes | None = None) -> Axes:
    """Training and validation over epochs, the gap between them shaded, and the events of the run.

    Args:
        history: of a run, as `Trainer.fit` or `read_run` give it. Rows within epochs stand at their fraction of one;
            what was not observed, or is infinite, is left out.
        key: "loss" (nats; in training the mean cost since the row before, penalty included and dropout on) or
            "accuracy" (the fraction of rows that are right).
        ax: where to draw.

    Kinds of events are numbered in the order in which they appear; what the numbers mean stands below the picture. Axes
    of yours leave room for that if their figure has ``layout="constrained"``.

    Raises:
        OptionError: an unknown key, one that this history lacks, or no history at all.
        DataError: a row without an epoch.
        ExtraError: matplotlib is not installed.

    >>> rows = [{"epoch": 1, "loss": 2.3, "val_loss": 2.2}, {"epoch": 2, "loss": 1.2, "val_loss": 1.4}]
    >>> [line.get_label() for line in curves(rows).lines]
    ['training', 'validation']
    """
    if key not in LABELS:
        raise unknown_name("curve", key, LABELS)
    timeline = Timeline(history)
    if timeline.rows and not any(key in row for row in timeline.rows):
        raise unknown_name("observation", key, timeline.rows[0])
    events = EventList(getattr(history, "events", ()), timeline)
    grow, ax = ax is None, canvas(ax)
    training, validation = timeline.series(key), timeline.series(f"val_{key}")
    handles: list[Artist] = []
    for series, name, colour, marker, style in (
        (training, "training", BLUE, "o", "-"),
        (validation, "validation", VERMILLION, "s", "--"),
    ):
        if series[0]:
            handles += _line(ax, series, label=name, color=colour, marker=marker, linestyle=style)
    handles += _gap(ax, training, validation)
    if handles:
        _vertical_axis(ax, key, training[1] + validation[1])
    else:
        ax.set_yticks([])
        say(ax, f"no {key} was recorded")
    name_axes(ax, "epoch", LABELS[key])
    ax.grid(axis="y", color="0.9", zorder=0)
    timeline.frame(ax, events.places)
    lists_below(ax, (handles, [str(handle.get_label()) for handle in handles]), events.key(), grow=grow)
    events.draw(ax)
    return ax


def _line(ax: Axes, series: Series, **style: Any) -> list[Any]:
    x, y = series
    return ax.plot(x, y, markersize=small(ax) / 2, markevery=max(1, len(x) // MARKS), zorder=3, **style)


def _gap(ax: Axes, training: Series, validation: Series) -> list[Any]:
    """Shade between the lines, wherever both are known."""
    if not training[0] or not validation[0]:
        return []
    low, high = max(training[0][0], validation[0][0]), min(training[0][-1], validation[0][-1])
    x = np.array(sorted({at for at in training[0] + validation[0] if low <= at <= high}))
    if len(x) < 2:
        return []
    ends = np.interp(x, *training), np.interp(x, *validation)
    return [ax.fill_between(x, *ends, color=GREY, alpha=0.2, linewidth=0, label="gap")]


def _vertical_axis(ax: Axes, key: str, values: list[float]) -> None:
    first, lowest, highest = values[0], min(values), max(values)
    if key == "loss" and lowest > 0 and highest > EXPLODED * first:
        ax.set_yscale("log")
        ax.set_ylim(lowest / 1.5, highest * 1.5)
        return
    margin = 0.05 * (highest - lowest) or 0.05 * math.fabs(highest) or 0.05
    ax.set_ylim(lowest - margin, highest + margin)
