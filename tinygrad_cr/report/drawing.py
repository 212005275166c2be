"""Pictures as data URIs: charts as SVG, whose text stays text, and images as PNG."""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from tinygrad_cr.errors import extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 5.4
"""Inches. On a phone the page shows it at two thirds of its size, in print at about half the width of a sheet."""

DPI = 180
"""Of images: two pixels for each of a common screen."""


@dataclass(frozen=True)
class Picture:
    """A picture that can be drawn.

    Attributes:
        name: what it is, in a few words.
        draw: draws it into the Axes given.
        alternative: what it shows, in numbers.
        caption: how to read it.
        height: in inches.
        image: it shows pixels, whose shades mean something; otherwise it is a chart.
        bare: it has no axes and fills its frame.
    """

    name: str
    draw: Callable[[Axes], Axes]
    alternative: str
    caption: str
    height: float = 3.8
    image: bool = False
    bare: bool = False


class Omission(NamedTuple):
    """A picture that cannot be there, and why."""

    name: str
    reason: str


def data_uri(picture: Picture) -> str:
    """Draw it.

    The user's style of matplotlib is left alone and has no influence, so that a picture looks the same everywhere.

    Raises:
        ExtraError: matplotlib is not installed.
        TinygradError: what `draw` raises.
    """
    with extra("plot"):
        from matplotlib import style
        from matplotlib.figure import Figure

    options = {"svg.fonttype": "none", "svg.hashsalt": "tinygrad_cr", "savefig.dpi": DPI}
    with style.context(["default", options]), warnings.catch_warnings():
        # A letter that this machine's font lacks is one that the reader's browser may have.
        warnings.simplefilter("ignore")
        figure = Figure(figsize=(WIDTH, picture.height), layout=None if picture.bare else "constrained")
        ax = figure.add_axes((0.01, 0.01, 0.98, 0.98)) if picture.bare else figure.add_subplot()
        picture.draw(ax)
        file = io.BytesIO()
        if picture.image:
            figure.savefig(file, format="png", metadata={"Software": None})
            return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
        # Transparent: the page behind it may be light or dark.
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        return "data:image/svg+xml," + quote(shorter(file.getvalue().decode()), safe=" !$&'()*+,-./:;=?@[]_{|}~")


def shorter(svg: str) -> str:
    """The same picture with fewer bytes: no preamble, no metadata, coordinates to a hundredth of a point.

    >>> shorter('<?xml version="1.0"?><!DOCTYPE svg><svg><metadata>x</metadata><path d="M 1.23456 2 "/></svg>')
    '<svg><path d="M 1.23 2 "/></svg>'
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    return re.sub(
        r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]).replace("\n", ""), svg
    )
