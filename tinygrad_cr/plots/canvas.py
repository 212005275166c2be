"""What all pictures share: Axes of their own, colours that everybody can tell apart, words that fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tinygrad_cr.errors import OptionError, extra

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

BLACK, GREY, PALE = "#000000", "#666666", "#E8E8E8"
BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
COLOURS = (BLUE, VERMILLION, GREEN, "#CC79A7", ORANGE, "#56B4E9", BLACK)
"""The colours of Okabe and Ito (2008), which people with any kind of colour vision tell apart."""

MARKERS = "osD^vP"
"""With the line styles, what tells lines apart where there is no colour at all."""

SMALL = 8
"""Points: text inside a picture."""

LINE = 0.17
"""Inches: the height of a line of a list below a picture."""

WIDTH_OF_A_LETTER = 0.62
"""Of its height, on average; a little too much rather than too little."""


def canvas(ax: Axes | None, *, bare: bool = False, taller: float = 0.0) -> Axes:
    """The Axes to draw into: the given ones, or new ones on a figure of 6 by 4 inches that pyplot does not know.

    Args:
        bare: new Axes fill their figure, as a picture without axes wants it.
        taller: inches to add to the height of a new figure.

    Raises:
        ExtraError: matplotlib is not installed.
        OptionError: `ax` are no Axes.
    """
    with extra("plot"):
        from matplotlib.axes import Axes
        from matplotlib.figure import Figure

    if ax is None:
        figure = Figure(figsize=(6, 4 + taller), layout=None if bare else "constrained")
        return figure.add_axes((0.01, 0.01, 0.98, 0.98)) if bare else figure.add_subplot()
    if not isinstance(ax, Axes):
        raise OptionError(f"ax must be the Axes to draw into, or None for new ones; got {ax!r}")
    return ax


def points(ax: Axes) -> tuple[float, float]:
    """Width and height of the Axes in points, before a layout may still change them."""
    box = ax.get_window_extent()
    scale = 72 / ax.figure.dpi
    return box.width * scale, box.height * scale


def plain(text: Any, letters: int = 40) -> str:
    """Text that matplotlib draws as it stands, no longer than so many letters.

    >>> plain("a $2 bill"), plain("Ankle boot", 6)
    ('a \\\\$2 bill', 'Ankle…')
    """
    line = " ".join(str(text).split())
    if len(line) > letters:
        line = line[: max(1, letters - 1)].rstrip() + "…"
    # Between two dollars matplotlib would read mathematics.
    return line.replace("$", r"\$")


def columns(ax: Axes) -> int:
    """How many columns of words fit below these Axes."""
    return 2 if points(ax)[0] > 280 else 1


def list_below(ax: Axes, handles: Sequence[Artist], labels: Sequence[str]) -> None:
    """A legend under the label of the horizontal axis, where it can cover nothing."""
    from matplotlib.legend import Legend
    from matplotlib.transforms import ScaledTranslation

    ticks = ax.xaxis.get_majorticklabels()
    under = 10 + 1.4 * (float(ax.xaxis.label.get_fontsize()) + (float(ticks[0].get_fontsize()) if ticks else SMALL))
    legend = Legend(
        ax,
        handles,
        labels,
        loc="upper center",
        bbox_to_anchor=(0.5, 0),
        bbox_transform=ax.transAxes + ScaledTranslation(0, -under / 72, ax.figure.dpi_scale_trans),
        ncols=columns(ax),
        fontsize=SMALL,
        frameon=False,
        borderaxespad=0,
        labelspacing=0.35,
    )
    ax.add_artist(legend)


def say(ax: Axes, message: str) -> None:
    """A sentence in the middle of a picture that has nothing else to show."""
    ax.text(0.5, 0.5, message, transform=ax.transAxes, ha="center", va="center", wrap=True)
