"""Whether a classifier is right as often as it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tinygrad_cr.errors import DataError
from tinygrad_cr.plots.canvas import COLOURS, GREY, MARKERS, canvas, list_below, name_axes, plain, small

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FEW = 5
"""Bins with fewer rows are hollow: chance alone moves them far."""

KEYS = {"count", "confidence", "accuracy"}

Bins = Sequence[Mapping[str, Any]]


def reliability(bins: Bins | Mapping[str, Bins], *, ax: Axes | None = None) -> Axes:
    """The reliability diagram of one classifier, or of several: how often it is right, over how sure it was.

    On the diagonal it is right as often as it says; below it is too sure of itself, above not sure enough. Bins with
    fewer than 5 rows are hollow.

    Args:
        bins: what `ensemble.calibration` gives: dicts with "count", "confidence" and "accuracy" (fractions; None of an
            empty bin); or several of them by name.
        ax: where to draw.

    Raises:
        DataError: no bins, bins that are none, or empty ones only.
        ExtraError: matplotlib is not installed.

    >>> ax = reliability([{"count": 9, "confidence": 0.9, "accuracy": 0.7}, {"count": 0, "confidence": None,
    ...                                                                     "accuracy": None}])
    >>> ax.lines[1].get_label()
    'ECE 0.2000'
    """
    named = bins if isinstance(bins, Mapping) else {"": bins}
    curves = {name: _filled(each) for name, each in named.items()}
    if not curves:
        raise DataError("there are no classifiers to draw")
    grow, ax = ax is None, canvas(ax)
    size = small(ax)
    handles: list[Any] = []
    handles += ax.plot([0, 1], [0, 1], ":", color=GREY, linewidth=1.4, zorder=1, label="right as often as it says")
    for i, (name, rows) in enumerate(curves.items()):
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        total = sum(row["count"] for row in rows)
        error = sum(row["count"] * abs(row["accuracy"] - row["confidence"]) for row in rows) / total
        style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": size / 1.8, "zorder": 3}
        x, y = [row["confidence"] for row in rows], [row["accuracy"] for row in rows]
        handles += ax.plot(x, y, linewidth=1.2, label=f"{plain(name, 24)}: ECE {error:.4f}".removeprefix(": "), **style)
        few = [row for row in rows if row["count"] < FEW]
        at = [row["confidence"] for row in few], [row["accuracy"] for row in few]
        ax.plot(*at, linestyle="none", markerfacecolor="white", **style)
    lowest = min(row["confidence"] for rows in curves.values() for row in rows)
    ax.set_xlim(max(0.0, min(0.9, lowest) - 0.05), 1.02)
    ax.set_ylim(-0.02, 1.02)
    ax.grid(color="0.9", zorder=0)
    name_axes(ax, "confidence (probability of the predicted class)" if size == 8 else "confidence", "fraction right")
    list_below(ax, handles, [str(handle.get_label()) for handle in handles], grow=grow)
    return ax


def _filled(bins: Bins) -> list[Mapping[str, Any]]:
    for i, row in enumerate(bins):
        if not isinstance(row, Mapping) or not row.keys() >= KEYS:
            raise DataError(f"bin {i} is none: it wants {', '.join(sorted(KEYS))}, got {row!r:.80}")
    found = [row for row in bins if row["count"]]
    if not found:
        raise DataError("there is nothing to draw: all bins are empty")
    return found
