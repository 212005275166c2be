"""Which classes are taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygrad_cr.errors import DataError, ShapeError
from tinygrad_cr.plots.canvas import SMALL, WIDTH_OF_A_LETTER, canvas, name_axes, plain, points, size_in, small
from tinygrad_cr.plots.images import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SMALLEST = 5.0
"""Points: smaller digits are not read but guessed, so there are none."""

LETTERS = 14
"""Longer names are cut."""

STEPS = [digit * 10**power for power in range(7) for digit in (1, 2, 5)]
"""Of many classes, every so many are named."""

DARK = 0.18
"""A background of less luminance than this has more contrast with white letters than with black ones (WCAG 2)."""


def confusion_matrix(labels: Any, predicted: Any, class_names: Sequence[str], *, ax: Axes | None = None) -> Axes:
    """How many rows of each true class (down) were predicted as each class (across).

    The shade is the fraction of the true class, on a square-root scale that lets few mistakes be seen. Counts are
    written into the cells; where they do not fit, a scale of shades stands beside them. Of many classes, only some are
    named.

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
    name_axes(ax, "predicted class", "true class")
    # The names take room from the cells, and the cells decide which names there are: the second time fits.
    for _ in range(2):
        _name(ax, names)
    width, height = (length / len(names) for length in points(ax))
    size = min(9.0, 0.6 * height, 0.9 * width / (WIDTH_OF_A_LETTER * len(str(counts.max()))))
    if size >= SMALLEST:
        _write(ax, counts, image.cmap(image.norm(share))[..., :3], size)
    else:
        _scale(ax, image)
        _name(ax, names)
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

    # Cells that are no squares fill the picture, and a layout can measure it.
    image = ax.imshow(share, cmap="Blues", norm=PowerNorm(0.5, 0, 1), aspect="auto", interpolation="nearest")
    ax.grid(False)
    return image


def _scale(ax: Axes, image: Any) -> None:
    from matplotlib.ticker import PercentFormatter

    bar = ax.figure.colorbar(image, ax=ax, ticks=[0, 0.01, 0.05, 0.2, 0.5, 1], format=PercentFormatter(1, 0))
    size = small(ax)
    bar.ax.tick_params(labelsize=size)
    bar.set_label("of the true class", fontsize=size)


def _write(ax: Axes, counts: Array, colours: Array, size: float) -> None:
    """The counts, black or white, whichever the background leaves more legible."""
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722])
    for (row, column), count in np.ndenumerate(counts):
        letters = "white" if luminance[row, column] < DARK else "black"
        ax.text(column, row, f"{count}", ha="center", va="center", fontsize=size, color=letters)


def _name(ax: Axes, names: list[str]) -> None:
    """Names that have room: every so many, and upright ones below where they would touch."""
    lengths = points(ax)
    largest = size_in(lengths[0]) + 1
    at, words, sizes = [], [], []
    for length in lengths:
        cell = length / len(names)
        size = min(largest, max(6.0, 0.8 * cell))
        every = next(n for n in STEPS if n * cell >= 1.2 * size or n >= len(names))
        sizes.append(size)
        at.append(range(0, len(names), every))
        words.append([plain(names[i], LETTERS if largest > SMALL else LETTERS - 2) for i in at[-1]])
    room = lengths[0] / len(names) * at[0].step
    upright = max(map(len, words[0])) * WIDTH_OF_A_LETTER * sizes[0] > 0.9 * room
    ax.set_xticks(at[0], words[0], fontsize=sizes[0], rotation=90 if upright else 0)
    ax.set_yticks(at[1], words[1], fontsize=sizes[1])
