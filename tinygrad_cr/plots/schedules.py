"""Learning rates over the steps of a run, as schedules give them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygrad_cr.errors import DataError, OptionError
from tinygrad_cr.options import integer
from tinygrad_cr.plots.canvas import BLACK, COLOURS, SMALL, canvas, list_below, name_axes, plain, small
from tinygrad_cr.schedules import Formula, Schedule

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

LINES = ("-", "--", "-.", ":")
"""With the colours, what tells schedules apart; seven colours and four lines make 28 pairs."""

POINTS = 2000
"""Of a longer run, about so many steps are drawn: a picture has fewer pixels."""


def schedules(
    given: Schedule | Sequence[Schedule] | Mapping[str, Schedule],
    steps: int,
    *,
    steps_per_epoch: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The learning rate of each step, for one schedule or several; minima of cycles have a ring.

    Args:
        given: a schedule, a list of them, or a dict that names them. Any function of the step will do; those of
            `tinygrad_cr.schedules` bring their own names. One that gives a vector [M] has M lines.
        steps: how many are drawn, from step 0 on.
        steps_per_epoch: draw over epochs, of so many steps each, instead of steps.
        ax: where to draw.

    Raises:
        OptionError: nothing to draw, something that is no function, or steps below 1.
        DataError: a rate that is no finite number from 0 on, or a vector that changes its length.
        ExtraError: matplotlib is not installed.

    >>> from tinygrad_cr.schedules import constant, cosine_restarts
    >>> ax = schedules([constant(0.05), cosine_restarts(0.1, t_0=10, t_mult=2)], steps=70)
    >>> [line.get_label() for line in ax.lines]
    ['constant', 'cosine_restarts', 'minimum of a cycle']
    >>> ax.lines[-1].get_xdata().tolist()
    [9.0, 29.0, 69.0]
    """
    named = _named(given)
    steps = integer("steps", steps, least=1)
    width = 1 if steps_per_epoch is None else integer("steps_per_epoch", steps_per_epoch, least=1)
    grow, ax = ax is None, canvas(ax, size=(6, 3))
    letters = 60 if small(ax) == SMALL else 30
    handles: list[Artist] = []
    for i, (name, schedule) in enumerate(named.items()):
        at, lowest = _places(schedule, steps)
        rates = _rates(name, schedule, at)
        style: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[i % len(LINES)]}
        lines = ax.plot(at / width, rates, linewidth=0.8 if rates.shape[1] > 1 else 1.5, zorder=3, **style)
        for other in lines[1:]:
            other.set_label("_other members")
        members = f", {rates.shape[1]} members" if rates.shape[1] > 1 else ""
        lines[0].set_label(plain(name, letters) + members)
        handles.append(lines[0])
        if lowest.size:
            _ring(ax, np.repeat(lowest / width, rates.shape[1]), rates[np.isin(at, lowest)].ravel())
    handles += [line for line in ax.lines if line.get_label() == RING][:1]
    last = (steps - 1) / width
    ax.set_xlim(-0.02 * last or -0.5, 1.02 * last or 0.5)
    ax.set_ylim(0, 1.06 * max(float(np.max(line.get_ydata())) for line in ax.lines) or 1)
    ax.grid(axis="y", color="0.9", zorder=0)
    # The power of ten above small rates.
    ax.yaxis.get_offset_text().set_fontsize(small(ax))
    name_axes(ax, "step" if steps_per_epoch is None else "epoch", "learning rate")
    list_below(ax, handles, [str(handle.get_label()) for handle in handles], grow=grow)
    return ax


RING = "minimum of a cycle"


def _ring(ax: Axes, x: Any, y: Any) -> None:
    style: dict[str, Any] = {"markerfacecolor": "white", "markeredgecolor": BLACK, "markersize": small(ax) - 3}
    # A ring at rate 0 lies on the edge of the picture, which would cut it in half.
    ax.plot(x, y, "o", label=RING, zorder=4, clip_on=False, **style)


def _named(given: Any) -> dict[str, Schedule]:
    if isinstance(given, Mapping):
        named = {str(name): schedule for name, schedule in given.items()}
    else:
        several = list(given) if isinstance(given, list | tuple) else [given]
        kinds = [_kind(each) for each in several]
        often = Counter(kinds)
        named = {}
        for i, (kind, schedule) in enumerate(zip(kinds, several, strict=True), start=1):
            name = kind if often[kind] == 1 else repr(schedule) if isinstance(schedule, Formula) else f"{kind} {i}"
            # Two that are equal still have a line each.
            named[name if name not in named else f"{i}: {name}"] = schedule
    if not named:
        raise OptionError("there is no schedule to draw: give one, a list of them, or a dict that names them")
    for schedule in named.values():
        if not callable(schedule):
            raise OptionError(f"a schedule is a function of the step, got {schedule!r}")
    return named


def _kind(schedule: Any) -> str:
    if isinstance(schedule, Formula):
        return type(schedule).__name__
    name = getattr(schedule, "__name__", "")
    return name if name.isidentifier() else "schedule"


def _places(schedule: Schedule, steps: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The steps that are drawn, and those among them that are minima."""
    lowest = np.array(schedule.minima(steps) if isinstance(schedule, Formula) else [], np.int64)
    spread = np.linspace(0, steps - 1, min(steps, POINTS)).astype(np.int64)
    # A sharp corner stays one: the minimum and what follows it are drawn, whatever lies between the others.
    return np.unique(np.concatenate([spread, lowest, np.minimum(lowest + 1, steps - 1)])), lowest


def _rates(name: str, schedule: Schedule, at: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Float64 [steps, members]."""
    found: list[np.ndarray[Any, Any]] = []
    for step in at.tolist():
        value = schedule(step)
        try:
            rates = np.atleast_1d(np.asarray(value, np.float64))
        except (TypeError, ValueError):
            rates = np.empty(0)
        if rates.ndim != 1 or not rates.size or not ((rates >= 0) & (rates < np.inf)).all():
            raise DataError(f"{name} must give a finite learning rate >= 0, or [M] of them; at step {step}: {value!r}")
        if found and found[0].shape != rates.shape:
            raise DataError(f"{name} gives {len(found[0])} learning rates at first and {len(rates)} at step {step}")
        found.append(rates)
    return np.array(found)
