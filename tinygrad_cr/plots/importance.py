"""How much each hyperparameter of a search matters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tinygrad_cr.plots.canvas import BLACK, BLUE, canvas, list_below, name_axes, plain, small
from tinygrad_cr.plots.scales import Row, checked
from tinygrad_cr.search.importance import Importances
from tinygrad_cr.search.importance import importance as find

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LIGHT = "#A9CCE3"

LEAST = 4
"""Of fewer bars, there is room above and below."""

NAMED = 10
"""So many parameters are shown, the most important ones."""


def importance(found: Importances | Sequence[Row], *, ax: Axes | None = None) -> Axes:
    """The share of the differences in validation accuracy that each hyperparameter explains, the most important first.

    The dark part of a bar is what the parameter explains by itself, the light part its interactions with others, which
    count for each of them: so bars may add up to more than 100 %. The line at its end says how sure that is, and the
    title how well the surface behind it predicts trials that it was not fitted to.

    Args:
        found: what `search.importance` gives, or the trials themselves.
        ax: where to draw.

    Raises:
        DataError: trials that `search.importance` can say nothing about.
        ExtraError: matplotlib is not installed.

    >>> rows = [{"lr": 10.0**-i, "reg": i % 3, "val_accuracy": i / 20} for i in range(10)]
    >>> ax = importance(rows)
    >>> [tick.get_text() for tick in ax.get_yticklabels()]
    ['lr', 'reg']
    """
    if not isinstance(found, Importances):
        found = find(checked(found))
    grow, ax = ax is None, canvas(ax)
    shown = found[:NAMED]
    places = range(len(shown))
    alone = [100 * each.alone for each in shown]
    total = [100 * each.total for each in shown]
    low, high = [100 * each.low for each in shown], [100 * each.high for each in shown]
    size = small(ax)
    bars = [
        ax.barh(places, alone, height=0.6, color=BLUE, edgecolor=BLUE, zorder=2, label="by itself"),
        ax.barh(
            places,
            [max(0.0, t - a) for t, a in zip(total, alone, strict=True)],
            left=alone,
            height=0.6,
            color=LIGHT,
            edgecolor=BLUE,
            hatch="////",
            linewidth=0.6,
            zorder=2,
            label="with others",
        ),
    ]
    lines = ax.hlines(places, low, high, color=BLACK, linewidth=1.2, zorder=3, label="80 % interval")
    for edge in (low, high):
        ax.plot(edge, places, "|", color=BLACK, markersize=size, zorder=3)
    for place, value in zip(places, total, strict=True):
        ax.text(1.02, place, f"{value:.0f} %", transform=ax.get_yaxis_transform(), va="center", fontsize=size)
    ax.set_yticks(places, [plain(each.name, 16) for each in shown])
    # A single bar shall not fill the picture.
    room = max(0, LEAST - len(shown)) / 2
    ax.set_ylim(len(shown) - 0.4 + room, -0.6 - room)
    ax.set_xlim(0, 100)
    ax.grid(axis="x", color="0.9", zorder=0)
    name_axes(ax, "share of the accuracy's variance (%)", "")
    ax.set_title(f"{found.trials} trials, cross-validated R² {found.explained:.2f}", fontsize=size + 1)
    handles: list[Any] = [*bars, lines]
    list_below(ax, handles, [str(handle.get_label()) for handle in handles], grow=grow)
    return ax
