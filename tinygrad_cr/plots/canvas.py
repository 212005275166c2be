"""What all pictures share: Axes of their own, colours that everybody can tell apart, words that fit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from tinygrad_cr.errors import OptionError, extra

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

BLACK, GREY = "#000000", "#666666"
BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
COLOURS = (BLUE, VERMILLION, GREEN, "#CC79A7", ORANGE, "#56B4E9", BLACK)
"""The colours of Okabe and Ito (2008), which people with any kind of colour vision tell apart."""

MARKERS = "osD^vP"
"""With the line styles, what tells lines apart where there is no colour at all."""

SMALL = 8
"""Points: text inside and below a picture; a point less where the picture is narrow."""

NARROW = 250
"""Points: Axes of less width are about half a page."""

LINE = 0.17
"""Inches: a line of a list below a picture."""

WIDTH_OF_A_LETTER = 0.6
"""Of its height, on average; rather too much than too little."""


def canvas(ax: Axes | None, *, bare: bool = False, size: tuple[float, float] = (6, 4)) -> Axes:
    """The Axes to draw into: the given ones, or new ones on a figure that pyplot does not know.

    Args:
        bare: new Axes fill their figure, as a picture without axes wants it.
        size: of a new figure in inches.

    Raises:
        ExtraError: matplotlib is not installed.
        OptionError: `ax` are no Axes.
    """
    with extra("plot"):
        from matplotlib.axes import Axes
        from matplotlib.figure import Figure

    if ax is None:
        figure = Figure(figsize=size, layout=None if bare else "constrained")
        return figure.add_axes((0.01, 0.01, 0.98, 0.98)) if bare else figure.add_subplot()
    if not isinstance(ax, Axes):
        raise OptionError(f"ax must be the Axes to draw into, or None for new ones; got {ax!r}")
    return ax


def points(ax: Axes, *, settled: bool = True) -> tuple[float, float]:
    """Width and height of the Axes in points; if settled, with the room that their labels take now."""
    layout = ax.figure.get_layout_engine()
    if settled and layout is not None:
        layout.execute(ax.figure.canvas.figure)
    box = ax.get_window_extent()
    scale = 72 / ax.figure.dpi
    return box.width * scale, box.height * scale


def small(ax: Axes) -> float:
    """The size of small text, and of marks, in these Axes."""
    # A layout takes longer than all else in a picture, and is not worth its time here.
    return size_in(points(ax, settled=False)[0])


def size_in(width: float) -> float:
    """The size of small text in Axes of this width in points."""
    return SMALL - (width < NARROW)


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


def say(ax: Axes, message: str) -> None:
    """A sentence in the middle of a picture that has nothing else to show."""
    text = ax.text(0.5, 0.5, message, transform=ax.transAxes, ha="center", va="center", fontsize=small(ax) + 1)
    # Lines behind it shall not cross it out.
    text.set_bbox({"facecolor": "white", "edgecolor": "none"})


def name_axes(ax: Axes, x: str, y: str) -> None:
    """Name both axes, in letters that leave room for the picture."""
    size = small(ax)
    if size < SMALL:
        ax.tick_params(labelsize=size)
    font: dict[str, Any] = {"fontsize": size + 1} if size < SMALL else {}
    ax.set_xlabel(x, **font)
    ax.set_ylabel(y, **font)


def list_below(ax: Axes, handles: Sequence[Artist], labels: Sequence[str], *, grow: bool = False) -> None:
    """One list, see `lists_below`."""
    lists_below(ax, (handles, labels), grow=grow)


def lists_below(ax: Axes, *lists: tuple[Sequence[Artist], Sequence[str]], grow: bool = False) -> None:
    """Legends under the label of the horizontal axis, where they cover nothing: handles and labels of each.

    grow: make the figure higher by the room that they take. Otherwise they take at most half of the picture's, and
    what does not fit is counted.
    """
    from matplotlib.legend import Legend
    from matplotlib.lines import Line2D
    from matplotlib.transforms import ScaledTranslation

    width, height = points(ax)
    size = size_in(width)
    line = 72 * LINE * size / SMALL
    left = 99 if grow else max(1, int(height / 2 / line))
    ticks = ax.xaxis.get_majorticklabels()
    top = 11 + 1.4 * (float(ax.xaxis.label.get_fontsize()) + (float(ticks[0].get_fontsize()) if ticks else SMALL))
    under = top
    for handles, labels in lists:
        if not labels or not left:
            continue
        columns = _columns(labels, size, width)
        room = left * columns
        if len(labels) > room:
            labels = [*labels[: room - 1], f"and {len(labels) - room + 1} more"]
            handles = [*handles[: room - 1], Line2D([], [], linestyle="none")]
        legend = Legend(
            ax,
            handles,
            labels,
            # What is narrow needs the room under the vertical axis too.
            loc="upper right" if width < NARROW else "upper center",
            bbox_to_anchor=(1 if width < NARROW else 0.5, 0),
            bbox_transform=ax.transAxes + ScaledTranslation(0, -under / 72, ax.figure.dpi_scale_trans),
            ncols=columns,
            fontsize=size,
            frameon=False,
            borderpad=0,
            borderaxespad=0,
            handlelength=1.8,
            columnspacing=1.0,
            labelspacing=0.35,
        )
        ax.add_artist(legend)
        # Artists are clipped to their Axes, and what is clipped gets no room.
        legend.set_clip_on(False)
        rows = -(-len(labels) // columns)
        left -= rows
        under += line * rows + 2
    if grow:
        figure = ax.figure.canvas.figure
        figure.set_figheight(figure.get_figheight() + (under - top) / 72)


def _columns(labels: Iterable[str], size: float, width: float) -> int:
    """How many columns of these labels fit under Axes of this width in points, with a little overhang to the left."""
    widest = max(len(label) for label in labels)
    column = size * (0.9 * WIDTH_OF_A_LETTER * widest + 3.6)
    return max(1, min(4, int((width + 40) / column)))
