"""Which classes are taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygrad_cr.errors import DataError, ShapeError
from tinygrad_cr.plots.canvas import SMALL, WIDTH_OF_A_LETTER, canvas, plain, points
from tinygrad_cr.plots.images import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SMALLEST = 5.0
"""Points: smaller digits are not read but guessed, so there are none."""

DARK = 0.45
"""A background of less luminance than this wants white letters."""


def confusion_matrix(labels: Any, predicted: Any, class_names: Sequence[str], *, ax: Axes | None = None) -> Axes:
    """How many rows of each true class (down) were predicted as each class (across).

    The shade is the fraction of the true class, on a square-root scale that lets few mistakes be seen. Counts are
    written into the cells where they fit; of many classes, only some are named.

    Args:
        labels, predicted: [n] class numbers.
        class_names: one for each class.
        ax: where to draw.

    Raises:
        ShapeError: no vectors, or two of different lengths.
        DataError: no rows, labels that are no integers, or outside the classes.
        ExtraError: matplotlib is not installed.

    >>> ax = confusion_matrix([0, 0, 1], [0, 1, 1], ["cat", "dog"])
    >>> ax.images[0].get_array().tolist()
    [[0.5, 0.5], [0.0, 1.0]]
    """
    names = [str(name) for name in class_names]
    counts = _counts(labels, predicted, len(names))
    ax = canvas(ax)
    share = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    image = _shades(ax, share)
    side = min(points(ax)) / len(names)
    size = min(9.0, 0.55 * side, 0.85 * side / (WIDTH_OF_A_LETTER * len(str(counts.max()))))
    if size >= SMALLEST:
        colours = image.cmap(image.norm(share))[..., :3]
        luminance = colours @ np.array([0.2126, 0.7152, 0.0722])
        for (row, column), count in np.ndenumerate(counts):
            letters = "white" if luminance[row, column] < DARK else "black"
            ax.text(column, row, f"{count}", ha="center", va="center", fontsize=size, color=letters)
    _names(ax, names, side)
    ax.set_xlabel("predicted class")
    ax.set_ylabel("true class")
    return ax


def _counts(labels: Any, predicted: Any, classes: int) -> Array:
    vectors = []
    for what, values in (("labels", labels), ("predicted", predicted)):
        vector = np.asarray(values)
        if vector.ndim != 1:
            raise ShapeError(
                f"{what} must be class numbers [n], got shape {vector.shape}; of probabilities take .argmax(axis=1)"
            )
        if not vector.size:
            raise DataError(f"{what} is empty: there is nothing to count")
        if vector.dtype.kind not in "bui":
            raise DataError(f"{what} must be class numbers, got dtype {vector.dtype}; convert with .astype(int)")
        wrong = (vector < 0) | (vector >= classes)
        if wrong.any():
            row = int(wrong.argmax())
            raise DataError(f"{what}[{row}] is {vector[row]}, outside the {classes} classes that have a name")
        vectors.append(vector.astype(np.int64))
    if vectors[0].shape != vectors[1].shape:
        raise ShapeError(f"one prediction a label is wanted: labels {vectors[0].shape}, predicted {vectors[1].shape}")
    counts: Array = np.bincount(vectors[0] * classes + vectors[1], minlength=classes**2).reshape(classes, classes)
    return counts


def _shades(ax: Axes, share: Array) -> Any:
    from matplotlib.colors import PowerNorm
    from matplotlib.ticker import PercentFormatter

    image = ax.imshow(share, cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    ax.grid(False)
    # An inset moves with its Axes and takes no room from its neighbours.
    bar = ax.figure.colorbar(image, cax=ax.inset_axes((1.03, 0, 0.04, 1)), ticks=[0, 0.01, 0.05, 0.2, 0.5, 1])
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1, 0))
    bar.ax.tick_params(labelsize=SMALL)
    bar.set_label("of the true class", fontsize=SMALL)
    return image


def _names(ax: Axes, names: list[str], side: float) -> None:
    """Names that have room: every so many, and upright ones below where they would touch."""
    size = min(9.0, max(6.0, 0.8 * side))
    every = max(1, int(np.ceil(1.15 * size / side)))
    at = list(range(0, len(names), every))
    words = [plain(names[i], 14) for i in at]
    upright = max(len(word) for word in words) * WIDTH_OF_A_LETTER * size > 0.9 * side * every
    ax.set_xticks(at, words, fontsize=size, rotation=90 if upright else 0)
    ax.set_yticks(at, words, fontsize=size)
