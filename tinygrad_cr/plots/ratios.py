"""The ratio of update to parameter norms over epochs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tinygrad_cr.errors import OptionError
from tinygrad_cr.plots.canvas import COLOURS, GREEN, GREY, MARKERS, canvas, list_below, name_axes, plain, say, small
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

    Weights have solid lines, biases thin dashed ones in the colour and with the marker of their weight. Each line is
    labelled with the name of its tensor.

    Raises:
        OptionError: no history, or one without ratios.
        DataError: a row without an epoch.
        ExtraError: matplotlib is not installed.

    >>> ax = update_ratios([{"epoch": 1, "update_ratio.layers.0.weight": 1e-3}])
    >>> ax.get_yscale(), ax.lines[-1].get_label()
    ('log', 'layers.0.weight')
    """
    timeline = Timeline(history)
    keys = dict.fromkeys(key for row in timeline.rows for key in row if key.startswith(PREFIX))
    names = [key.removeprefix(PREFIX) for key in keys]
    if timeline.rows and not names:
        raise OptionError(f"this history has no update ratios: none of its rows has a key {PREFIX}NAME")
    grow, ax = ax is None, canvas(ax)
    ax.set_yscale("log")
    band = ax.axhspan(*BAND, facecolor=GREEN, alpha=0.14, zorder=0, label="wanted: 1e-4 to 1e-2")
    middle = ax.axhline(WANTED, color=GREEN, linestyle=":", linewidth=1.6, zorder=1, label="best near 1e-3")
    limits = [BAND[0] / 3, BAND[1] * 3]
    drawn, size = {}, small(ax)
    for name in names:
        x, y = timeline.series(PREFIX + name)
        style = _style(name, names, size)
        moving = [(at, ratio) for at, ratio in zip(x, y, strict=True) if ratio > 0]
        if moving:
            every = max(1, len(moving) // MARKS)
            drawn[name], *_ = ax.plot(*zip(*moving, strict=True), markevery=every, label=plain(name), **style)
            limits += [ratio * factor for _, ratio in moving for factor in (0.5, 2)]
        still = [at for at, ratio in zip(x, y, strict=True) if ratio == 0]
        if still:
            ax.plot(still, [0.02] * len(still), "v", color=style["color"], transform=ax.get_xaxis_transform())
    if not drawn:
        say(ax, "no update ratio was recorded")
    ax.set_ylim(min(limits), max(limits))
    timeline.frame(ax)
    name_axes(ax, "epoch", "|update| / |parameter|")
    handles = [band, middle, *_named(drawn, size)]
    list_below(ax, handles, [plain(handle.get_label(), 30) for handle in handles], grow=grow)
    return ax


def _style(name: str, names: list[str], size: float) -> dict[str, Any]:
    """Colour and marker of a tensor's own, for a bias those of its weight."""
    owner = _weight_of(name, names)
    look = names.index(name) if owner is None else [n for n in names if not _is_bias(n)].index(owner)
    style: dict[str, Any] = {"color": COLOURS[look % len(COLOURS)], "marker": MARKERS[look % len(MARKERS)], "zorder": 3}
    if _is_bias(name):
        return style | {"linestyle": "--", "linewidth": 0.9, "markersize": size / 2.6, "markerfacecolor": "white"}
    return style | {"linestyle": "-", "linewidth": size / 5, "markersize": size / 1.8}


def _named(drawn: dict[str, Any], size: float) -> list[Any]:
    """What the list below names: the tensors that have a look of their own, and one line for all other biases."""
    from matplotlib.lines import Line2D

    own = [name for name in drawn if not _is_bias(name) or _weight_of(name, list(drawn)) is None]
    handles = [drawn[name] for name in own[:NAMED]]
    if len(own) > NAMED:
        handles.append(Line2D([], [], linestyle="none", label=f"and {len(own) - NAMED} more tensors"))
    if len(own) < len(drawn):
        thin: dict[str, Any] = {
            "linestyle": "--",
            "linewidth": 0.9,
            "marker": "o",
            "markersize": size / 2.6,
            "markerfacecolor": "w",
        }
        handles.append(Line2D([], [], color=GREY, label="bias of a weight", **thin))
    return handles


def _weight_of(name: str, names: list[str]) -> str | None:
    """The weight that a bias belongs to: the first one of its layer. A weight is its own."""
    if not _is_bias(name):
        return name
    layer = name.rpartition(".")[0]
    return next((n for n in names if not _is_bias(n) and n.rpartition(".")[0] == layer), None)


def _is_bias(name: str) -> bool:
    return name.rpartition(".")[2] in ("bias", "b")
