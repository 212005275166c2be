"""The rows that a network is most wrong about, as images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tinygrad_cr.data import Dataset
from tinygrad_cr.errors import DataError, OptionError, ShapeError
from tinygrad_cr.options import integer
from tinygrad_cr.plots.canvas import SMALL, WIDTH_OF_A_LETTER, canvas, plain, points, say
from tinygrad_cr.plots.images import Array, as_images, best_columns, displayed, put, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SMALLEST = 5.5
"""Points: names are cut rather than written smaller."""


def worst_mistakes(data: Dataset, probabilities: Any, *, ax: Axes | None = None, count: int = 12) -> Axes:
    """The misclassified rows whose true class got the least probability, the worst first.

    Above each image stand the true class, the predicted class and the probability of the predicted one.

    Args:
        data: with labels and an image_shape.
        probabilities: [n, classes], as `train.predict_proba` gives them for these rows.
        ax: where to draw.
        count: at most so many images.

    Raises:
        DataError: data without labels or image_shape, or probabilities that are none.
        ShapeError: not one row of probabilities for each row, or not one column for each class.
        OptionError: no Dataset, or a count below 1.
        ExtraError: matplotlib is not installed.

    >>> data = Dataset([[[0.0, 1.0]], [[1.0, 0.0]]], [0, 1], class_names=["cat", "dog"])
    >>> [title.get_text() for title in worst_mistakes(data, [[0.2, 0.8], [0.1, 0.9]]).texts]
    ['cat\\n→ dog (0.80)']
    """
    count = integer("count", count, least=1)
    if not isinstance(data, Dataset):
        raise OptionError(f"data must be a Dataset, got {type(data).__name__}")
    if data.y is None:
        raise DataError("a mistake is one against a label, and this data has none")
    images = as_images(data.x, data.image_shape)
    p = _probabilities(probabilities, data)
    predicted = p.argmax(axis=1)
    wrong = np.flatnonzero(predicted != data.y)
    worst = wrong[np.argsort(p[wrong, data.y[wrong]], kind="stable")][:count]
    ax = canvas(ax, bare=True)
    if not len(worst):
        ax.set_axis_off()
        say(ax, f"no mistakes: all {len(data)} rows are right")
        return ax
    titles = [
        (data.class_names[data.y[row]], data.class_names[predicted[row]], f"({p[row, predicted[row]]:.2f})")
        for row in worst
    ]
    shown, how = displayed(images[worst])
    _draw(ax, shown, how, titles)
    return ax


def _probabilities(probabilities: Any, data: Dataset) -> Array:
    p = np.asarray(probabilities)
    if p.ndim != 2 or len(p) != len(data) or p.shape[1] < data.classes:
        raise ShapeError(
            f"probabilities must be [{len(data)}, {data.classes}], a row for each row of the data; got {p.shape}"
        )
    if p.shape[1] > len(data.class_names):
        raise ShapeError(f"probabilities have {p.shape[1]} columns, the data has {len(data.class_names)} class names")
    if p.dtype.kind != "f" or not ((p >= 0) & (p <= 1.001)).all():
        raise DataError("probabilities must lie in [0, 1]; logits become probabilities by ops.softmax")
    return p


def _draw(ax: Axes, images: Array, how: dict[str, Any], titles: list[tuple[str, str, str]]) -> None:
    """Images in rows, each with two lines above it."""
    width, height = points(ax)
    tall, wide = images.shape[1:3]
    words = 2.7 * SMALL
    columns = best_columns(len(images), width, height, (wide, tall), words)
    rows = -(-len(images) // columns)
    cell = width / columns, height / rows
    scale = max(0.01, min(0.94 * cell[0] / wide, (cell[1] - words) / tall))
    letters = max(len(true) for true, _, _ in titles), max(len(f"→ {other} {p}") for _, other, p in titles)
    size = max(SMALLEST, min(float(SMALL), 0.96 * cell[0] / (WIDTH_OF_A_LETTER * max(letters))))
    room = int(0.96 * cell[0] / (WIDTH_OF_A_LETTER * size))
    for i, (image, (true, other, p)) in enumerate(zip(images, titles, strict=True)):
        left, top = i % columns * cell[0], i // columns * cell[1]
        put(ax, image, (left + (cell[0] - scale * wide) / 2, top + words, scale * wide, scale * tall), how)
        text = f"{plain(true, room)}\n→ {plain(other, max(1, room - 3 - len(p)))} {p}"
        ax.text(left + cell[0] / 2, top + words - 2, text, ha="center", va="bottom", fontsize=size, linespacing=1.1)
    sheet(ax, width, height)
