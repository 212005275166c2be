"""The range of learning rates between those that do nothing and those that explode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygrad_cr.errors import DataError, ShapeError
from tinygrad_cr.plots.canvas import BLACK, BLUE, GREEN, GREY, VERMILLION, canvas, list_below, name_axes, small

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

EXPLODED = 3
"""A cost of so many times the original one counts as an explosion (CS231n)."""

TOP = 3.6
"""Costs above so many times the original one are drawn as triangles on the upper edge."""


def learning_rate_range(rates: Any, *, ax: Axes | None = None) -> Axes:
    """Cost over learning rates, with the bracket between too low and too high, and the suggestion in it.

    Args:
        rates: an object, or a dict, with `rates` ([n], ascending), `costs` ([n], nats; inf, NaN or None where
            training diverged), `initial` (the cost before training), and `low`, `high` and `suggestion` (None where
            not found).
        ax: where to draw.

    Raises:
        DataError: something of this is missing, not positive, or out of order.
        ShapeError: not one cost for each rate.
        ExtraError: matplotlib is not installed.

    >>> found = {"rates": [1e-3, 1e-2, 1e-1], "costs": [2.3, 1.1, float("inf")], "initial": 2.3}
    >>> ax = learning_rate_range(found | {"low": 1e-3, "high": 1e-1, "suggestion": 1e-2})
    >>> ax.get_xscale()
    'log'
    """
    lr, costs, initial = _tried(rates)
    low, high, suggestion = (_rate(rates, name) for name in ("low", "high", "suggestion"))
    if low is not None and high is not None and low > high:
        raise DataError(f"the bracket must have low <= high, got low {low:g} and high {high:g}")
    grow, ax = ax is None, canvas(ax)
    ax.set_xscale("log")
    top = TOP * initial
    # NaN compares false: it counts as above.
    inside = costs <= top
    shown = np.where(inside, costs, np.nan)
    handles: list[Artist] = []
    handles += ax.plot(lr, shown, "o-", color=BLUE, markersize=small(ax) - 4.5, label="cost", zorder=3)
    if not inside.all():
        edge = np.full((~inside).sum(), 0.97 * top)
        handles += ax.plot(lr[~inside], edge, "^", color=VERMILLION, markersize=5, label="above, inf or NaN", zorder=3)
    if suggestion is not None:
        label = f"suggestion {suggestion:.2g}"
        handles.append(ax.axvline(suggestion, color=BLACK, linestyle="-.", linewidth=1.4, label=label, zorder=2))
    handles += _bracket(ax, low, high, (lr[0], lr[-1]))
    label = f"initial cost {initial:.3g}"
    handles.append(ax.axhline(initial, color=GREY, linestyle="--", linewidth=1.1, label=label, zorder=1))
    label = f"{EXPLODED} × initial cost"
    handles.append(
        ax.axhline(EXPLODED * initial, color=VERMILLION, linestyle=":", linewidth=1.4, label=label, zorder=1)
    )
    ax.set_ylim(0, top)
    name_axes(ax, "learning rate", "cost (nats)")
    list_below(ax, handles, [str(handle.get_label()) for handle in handles], grow=grow)
    return ax


def _tried(rates: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], float]:
    given = {name: _get(rates, name) for name in ("rates", "costs", "initial")}
    try:
        lr, costs = np.asarray(given["rates"], np.float64), np.asarray(given["costs"], np.float64)
        initial = float(given["initial"])
    except (TypeError, ValueError) as problem:
        raise DataError(f"rates, costs and initial must be numbers: {problem}") from None
    if lr.ndim != 1 or lr.shape != costs.shape:
        raise ShapeError(f"one cost for each rate is wanted: rates {lr.shape}, costs {costs.shape}")
    if not len(lr) or not (np.isfinite(lr).all() and lr[0] > 0 and (np.diff(lr) > 0).all()):
        raise DataError(f"rates must be positive, finite and ascending, got {lr.tolist()}")
    if not 0 < initial < np.inf:
        raise DataError(f"initial must be the positive cost before training, got {initial}")
    return lr, costs, initial


def _get(rates: Any, name: str) -> Any:
    missing = object()
    value = rates.get(name, missing) if isinstance(rates, Mapping) else getattr(rates, name, missing)
    if value is missing:
        raise DataError(f"rates has no {name!r}: it holds rates, costs, initial, low, high and suggestion")
    return value


def _rate(rates: Any, name: str) -> float | None:
    value = _get(rates, name)
    if value is None:
        return None
    if not isinstance(value, int | float | np.number) or not 0 < value < np.inf:
        raise DataError(f"{name} must be a positive learning rate or None, got {value!r}")
    return float(value)


def _bracket(ax: Axes, low: float | None, high: float | None, ends: tuple[float, float]) -> list[Artist]:
    """Shade between the edges; where one was not found, the shade reaches to the end of what was tried."""
    if low is None and high is None:
        return []
    if low is None:
        label = f"bracket below {high:.2g}"
    else:
        label = f"bracket above {low:.2g}" if high is None else f"bracket {low:.2g} to {high:.2g}"
    for edge in (low, high):
        if edge is not None:
            ax.axvline(edge, color=GREEN, linewidth=0.9, zorder=1)
    left, right = ends[0] if low is None else low, ends[1] if high is None else high
    return [ax.axvspan(left, right, facecolor=GREEN, alpha=0.16, label=label, zorder=0)]
