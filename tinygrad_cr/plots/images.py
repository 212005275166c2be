"""Rows of numbers as images, and a place for each of them on one sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygrad_cr.errors import DataError, ShapeError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEADING = 1.3
"""From line to line of a caption, in sizes of its letters."""

Array = np.ndarray[Any, Any]


def as_images(rows: Array, image_shape: Sequence[int] | None) -> Array:
    """Rows [n, d] as images, [n, h, w] or [n, h, w, 3].

    Raises:
        DataError: no shape of an image.
        ShapeError: one that holds another number of values than a row.

    >>> as_images(np.zeros((5, 12)), (2, 2, 3)).shape
    (5, 2, 2, 3)
    """
    if image_shape is None:
        raise DataError(
            "these rows have no image_shape, so nobody knows how they are pictures: "
            "make the data with Dataset(x, y, image_shape=(height, width)), or (height, width, 3) for colour"
        )
    shape = tuple(int(side) for side in image_shape)
    if len(shape) == 3 and shape[2] == 1:
        shape = shape[:2]
    if len(shape) not in (2, 3) or shape[2:] not in ((), (3,)) or min(shape) < 1:
        raise DataError(f"image_shape must be (height, width) or (height, width, 3), got {tuple(image_shape)}")
    if math.prod(shape) != rows.shape[1]:
        raise ShapeError(f"an image of shape {shape} holds {math.prod(shape)} values, these rows hold {rows.shape[1]}")
    return rows.reshape(-1, *shape)


def displayed(images: Array) -> tuple[Array, dict[str, Any]]:
    """Images as matplotlib draws them, all on one scale, and how: black is the least value and white the greatest."""
    if images.dtype == np.uint8 and images.ndim == 4:
        return images, {}
    low, high = float(images.min()), float(images.max())
    if images.ndim == 4:
        # matplotlib wants colours in [0, 1]; those that are there already keep their brightness.
        low, high = (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)
        return (images - low) / (high - low or 1.0), {}
    return images, {"cmap": "gray", "vmin": low, "vmax": high if high > low else low + 1}


def put(ax: Axes, image: Array, box: tuple[float, float, float, float], how: dict[str, Any]) -> None:
    """Draw an image into the box (left, top, width, height), in units of a sheet whose y runs downward."""
    from matplotlib.patches import Rectangle

    left, top, width, height = box
    ax.imshow(image, extent=(left, left + width, top + height, top), interpolation="nearest", **how)
    # White pictures have an edge too.
    ax.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor="0.4", linewidth=0.5))


def caption(ax: Axes, middle: float, bottom: float, lines: Sequence[str], size: float) -> None:
    """Centred lines whose last one ends at `bottom`. Each is a text of its own: so baselines agree between columns."""
    for i, line in enumerate(lines, 1 - len(lines)):
        ax.text(middle, bottom + LEADING * size * i - 0.25 * size, line, ha="center", va="baseline", fontsize=size)


def sheet(ax: Axes, width: float, height: float) -> None:
    """Make the Axes a sheet of this size, without ticks and spines; y runs downward. Call it after the last `put`."""
    ax.set_xlim(0, width)
    ax.set_ylim(height, 0)
    ax.set_aspect("equal", adjustable="box")
    ax.set_axis_off()


def columns_for(
    count: int, width: float, height: float, image: tuple[int, int], words: float = 0, least: float = 0
) -> int:
    """In how many columns `count` images, (height, width) each, come out largest on a sheet.

    words: height of what is written above each. least: width that it needs; if no sheet has that, it is not considered.

    >>> columns_for(12, 432, 288, (28, 28), words=20), columns_for(12, 432, 288, (28, 28), words=20, least=140)
    (4, 3)
    """
    fitting = [n for n in range(1, count + 1) if width / n >= least] or [1]
    return max(fitting, key=lambda n: scale_of(count, n, width, height, image, words))


def scale_of(count: int, columns: int, width: float, height: float, image: tuple[int, int], words: float = 0) -> float:
    """The size of a pixel where `count` images stand in so many columns, a little space between them."""
    rows = -(-count // columns)
    return max(0.01, min(0.94 * width / columns / image[1], (0.98 * height / rows - words) / image[0]))
