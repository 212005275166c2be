"""Events on a picture: a numbered badge at each, and below the picture what the numbers mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from tinygrad_cr.plots.canvas import BLACK, GREY, ORANGE, VERMILLION, plain, points
from tinygrad_cr.plots.timeline import Timeline
from tinygrad_cr.train.history import Event

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

LANES = 4
"""Badges that would cover each other go into lanes; a badge that finds no place in so many is left out."""

LANE, LETTER = 14.0, 5.0
"""Height of a lane and width of a digit in points, for text of 7 points."""

KINDS = 12
"""So many kinds are listed below the picture."""

STYLES: dict[str, tuple[str, str, str, str, Any]] = {
    "note": (GREY, "white", BLACK, "round,pad=0.25", ":"),
    "warn": (ORANGE, "#FBE3B0", BLACK, "square,pad=0.25", "--"),
    "fail": (VERMILLION, VERMILLION, "white", "square,pad=0.25", "-"),
}
"""Of a level: line, background, text, shape and line style. Without colour, shape, shade and style remain."""


@dataclass(frozen=True)
class Badge:
    """One place with events.

    Attributes:
        x: position in epochs.
        label: the numbers of the kinds seen there, such as "1-3 7".
        level: the worst of them.
        first: whether a kind is seen here for the first time.
    """

    x: float
    label: str
    level: str
    first: bool


class EventList:
    """The events of a history, numbered by kind in the order in which the kinds appear."""

    def __init__(self, events: Iterable[Event], timeline: Timeline) -> None:
        placed = sorted(((timeline.at(e.epoch, e.step), e) for e in events), key=lambda pair: pair[0])
        self.places = [x for x, _ in placed]
        self.kinds: dict[str, list[Event]] = {}
        for _, event in placed:
            self.kinds.setdefault(event.kind, []).append(event)
        numbers = {kind: i + 1 for i, kind in enumerate(self.kinds)}
        self.badges, seen = [], set[str]()
        for x, group in groupby(placed, key=lambda pair: round(pair[0], 6)):
            here = [event for _, event in group]
            kinds = {event.kind for event in here}
            label = numbers_label(sorted(numbers[kind] for kind in kinds))
            self.badges.append(Badge(x, label, _worst(here), not kinds <= seen))
            seen |= kinds

    def labels(self) -> list[tuple[str, str]]:
        """For each kind the line that says what its number means, and the worst level it was seen at."""
        lines = [
            (f"{i + 1}  {plain(kind.replace('_', ' '), 20)}: {_epochs([e.epoch for e in events])}", _worst(events))
            for i, (kind, events) in enumerate(self.kinds.items())
        ]
        if len(lines) > KINDS:
            left = [level for _, level in lines[KINDS - 1 :]]
            lines[KINDS - 1 :] = [(f"and {len(left)} more kinds", max(left, key=list(STYLES).index))]
        return lines

    def key(self) -> tuple[list[Artist], list[str]]:
        """Handles and labels of the list."""
        from matplotlib.lines import Line2D

        labels = self.labels()
        return (
            [Line2D([], [], color=STYLES[level][0], linestyle=STYLES[level][4]) for _, level in labels],
            [label for label, _ in labels],
        )

    def draw(self, ax: Axes) -> None:
        """Draw lines and badges; the limits of both axes must be set."""
        if not self.badges:
            return
        width, height = points(ax)
        lanes = lanes_of(self.badges, ax.get_xlim(), width, max(1, min(LANES, int(0.4 * height / LANE))))
        _make_room(ax, LANE * (1 + max(lane for _, lane in lanes)))
        for badge, lane in lanes:
            line, back, text, shape, style = STYLES[badge.level]
            ax.axvline(badge.x, color=line, linestyle=style, linewidth=0.9, zorder=1)
            ax.annotate(
                badge.label,
                (badge.x, 1),
                xycoords=ax.get_xaxis_transform(),
                xytext=(0, -LANE * (lane + 0.55)),
                textcoords="offset points",
                ha="center",
                va="center",
                fontsize=7,
                color=text,
                bbox={"boxstyle": shape, "facecolor": back, "edgecolor": line, "linewidth": 0.8},
                zorder=6,
            )


def numbers_label(numbers: Sequence[int]) -> str:
    """Ascending numbers, neighbours joined.

    >>> numbers_label([1, 2, 3, 5, 7, 8])
    '1-3 5 7 8'
    """
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][-1] + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    return " ".join(f"{r[0]}-{r[-1]}" if len(r) > 2 else " ".join(map(str, r)) for r in runs)


def lanes_of(
    badges: Iterable[Badge], limits: tuple[float, float], width: float, lanes: int = LANES
) -> list[tuple[Badge, int]]:
    """The badges that find a place on an axis of this width in points, each with its lane from the top.

    Where there are too many, the first of each kind and the worst go first.
    """
    scale = width / (limits[1] - limits[0])
    levels = list(STYLES)
    order = sorted(badges, key=lambda badge: (not badge.first, -levels.index(badge.level), badge.x))
    taken: list[list[tuple[float, float]]] = [[] for _ in range(lanes)]
    placed = []
    for badge in order:
        half = (LETTER * len(badge.label) + 8) / 2
        middle = (badge.x - limits[0]) * scale
        for lane, spans in enumerate(taken):
            if all(middle + half <= low or high <= middle - half for low, high in spans):
                spans.append((middle - half, middle + half))
                placed.append((badge, lane))
                break
    return placed


def _worst(events: Iterable[Event]) -> str:
    return max((e.level if e.level in STYLES else "note" for e in events), key=list(STYLES).index)


def _epochs(epochs: Sequence[int]) -> str:
    distinct = sorted(set(epochs))
    if len(distinct) == 1:
        return f"epoch {distinct[0]}"
    if len(distinct) <= 4:
        return f"epochs {', '.join(map(str, distinct))}"
    return f"{len(distinct)} epochs from {distinct[0]} to {distinct[-1]}"


def _make_room(ax: Axes, height: float) -> None:
    """Raise the upper limit so that a strip of this height in points stays free of the data below it."""
    share = min(0.6, height / points(ax)[1])
    transform = ax.yaxis.get_transform()
    low, high = transform.transform(list(ax.get_ylim()))
    ax.set_ylim(top=float(transform.inverted().transform([low + (high - low) / (1 - share)])[0]))
