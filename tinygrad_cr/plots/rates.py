"""The range of learning rates between those that do nothing and those that explode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygrad_cr.errors import DataError, ShapeError
from tinygrad_cr.plots.canvas import BLACK, BLUE, GREEN, GREY, SMALL, VERMILLION, canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EXPLODED = 3
"""A cost of so many times the original one counts as an explosion (CS231n)."""

TOP = 3.6
"""Costs above so many times the original one are drawn as triangles on the upper edge."""


def learning_rate_range(rates: Any, *, ax: Axes | None = None) -> Axes:
    """Cost over learning rates, with the bracket between too low and too high, and the suggestion in it.

    Args:
        rates: an object, or a dict, with `rates` ([n], ascending), `costs` ([n], nats; inf or NaN where training
            diverged), `initial` (the cost before training) and `low`, `high`, `suggestion` (None where not found).
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
    if low is not None and high is not None and not low < high:
        raise DataError(f"the bracket must have low < high, got low {low:g} and high {high:g}")
    ax = canvas(ax)
    ax.set_xscale("log")
    if low is not None or high is not None:
        left, right = lr[0] if low is None else low, lr[-1] if high is None else high
        ax.axvspan(left, right, facecolor=GREEN, alpha=0.16, label=_bracket(low, high), zorder=0)
        for edge in (low, high):
            if edge is not None:
                ax.axvline(edge, color=GREEN, linewidth=0.9, zorder=1)
    ax.axhline(initial, color=GREY, linestyle="--", linewidth=1.1, label=f"initial cost, {initial:.3g}", zorder=1)
    ax.axhline(
        EXPLODED * initial, color=VERMILLION, linestyle=":", linewidth=1.4, label=f"{EXPLODED} × initial cost", zorder=1
    )
    top = TOP * initial
    inside = np.isfinite(costs) & (costs <= top)
    ax.plot(lr[inside], costs[inside], color=BLUE, marker="o", markersize=3.5, label="cost", zorder=3)
    if not inside.all():
        ax.plot(
            lr[~inside],
            np.full((~inside).sum(), 0.97 * top),
            linestyle="none",
            marker="^",
            markersize=6,
            color=VERMILLION,
            label="above the picture, inf or NaN",
            zorder=3,
        )
    if suggestion is not None:
        ax.axvline(
            suggestion, color=BLACK, linestyle="-.", linewidth=1.4, label=f"suggestion, {suggestion:.2g}", zorder=2
        )
    ax.set_ylim(0, top)
    ax.set_xlabel("learning rate")
    ax.set_ylabel("cost (nats)")
    ax.legend(loc="best", fontsize=SMALL, framealpha=0.9)
    return ax


def _tried(rates: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], float]:
    try:
        lr, costs = (np.asarray(_get(rates, name), np.float64) for name in ("rates", "costs"))
        initial = float(_get(rates, "initial"))
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


def _bracket(low: float | None, high: float | None) -> str:
    if low is None:
        return f"bracket, below {high:.2g}"
    return f"bracket, above {low:.2g}" if high is None else f"bracket, {low:.2g} to {high:.2g}"
