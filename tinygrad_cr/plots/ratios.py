"""The ratio of update to parameter norms over epochs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tinygrad_cr.errors import OptionError
from tinygrad_cr.plots.canvas import COLOURS, GREEN, LINE, MARKERS, canvas, list_below, plain, say
from tinygrad_cr.plots.timeline import Timeline
from tinygrad_cr.train.history import History, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PREFIX = "update_ratio."
BAND, WANTED = (1e-4, 1e-2), 1e-3
"""Updates should be about a thousandth of what they update (CS231n)."""

NAMED = 12
"""So many tensors are named below the picture."""

MARKS = 12
"""So many markers on a line tell it from the others."""


def update_ratios(history: History | Sequence[Row], *, ax: Axes | None = None) -> Axes:
    """Norm of the last update over norm of the parameter, for each tensor, over epochs; wanted near 1e-3.

    Args:
        history: of a run. Ratios of None (a parameter of zeros) are left out; a ratio of 0 (nothing was updated) is
            a triangle on the lower edge.
        ax: where to draw.

    Weights have solid lines, biases thin dashed ones in the colour of their weight.

    Raises:
        OptionError: no history, or one without ratios.
        DataError: a row without an epoch.
        ExtraError: matplotlib is not installed.

    >>> ax = update_ratios([{"epoch": 1, "update_ratio.layers.0.weight": 1e-3}])
    >>> ax.get_yscale(), ax.get_xlabel()
    ('log', 'epoch')
    """
    timeline = Timeline(history)
    names = list(dict.fromkeys(key for row in timeline.rows for key in row if key.startswith(PREFIX)))
    if timeline.rows and not names:
        raise OptionError(f"this history has no update ratios: none of its rows has a key {PREFIX}NAME")
    ax = canvas(ax, taller=LINE * (2 + min(len(names), NAMED) // 2))
    ax.set_yscale("log")
    ax.axhspan(*BAND, facecolor=GREEN, alpha=0.14, zorder=0, label=f"wanted: {BAND[0]:g} to {BAND[1]:g}")
    ax.axhline(WANTED, color=GREEN, linestyle=":", linewidth=1.6, zorder=1, label=f"best near {WANTED:g}")
    limits = [BAND[0] / 3, BAND[1] * 3]
    layers = list(dict.fromkeys(_layer(name) for name in names))
    for name in names:
        x, y = timeline.series(name)
        bias, i = _is_bias(name), layers.index(_layer(name))
        style: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)], "zorder": 3}
        style |= {"linestyle": "--", "linewidth": 0.9} if bias else {"linestyle": "-", "linewidth": 1.7}
        style |= {"markersize": 3, "markerfacecolor": "white"} if bias else {"markersize": 4.5}
        moving = [(at, ratio) for at, ratio in zip(x, y, strict=True) if ratio > 0]
        if moving:
            label = plain(name.removeprefix(PREFIX), 32)
            ax.plot(*zip(*moving, strict=True), markevery=max(1, len(moving) // MARKS), label=label, **style)
            limits += [ratio * factor for _, ratio in moving for factor in (0.5, 2)]
        still = [at for at, ratio in zip(x, y, strict=True) if ratio == 0]
        if still:
            ax.plot(still, [0.02] * len(still), "v", color=style["color"], transform=ax.get_xaxis_transform())
    ax.set_ylim(min(limits), max(limits))
    timeline.frame(ax)
    ax.set_ylabel("|update| / |parameter|")
    handles, labels = ax.get_legend_handles_labels()
    if len(labels) == 2:
        say(ax, "no update ratio was recorded")
    if len(labels) > NAMED + 2:
        labels[NAMED + 1] = f"and {len(labels) - NAMED - 1} more tensors"
    list_below(ax, handles[: NAMED + 2], labels[: NAMED + 2])
    return ax


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _is_bias(name: str) -> bool:
    return name.rpartition(".")[2] in ("bias", "b")
